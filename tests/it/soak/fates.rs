//! Who sleeps until when, and who is dead until when: what a soak has to remember of the processes that it torments.
//!
//! What always holds: the dead do not sleep, and nobody is stopped twice. The deeds themselves are the soak's.

use std::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Alive,
    Asleep(Instant),
    Dead(Instant),
}

/// What is due for one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It slept enough: let it go on.
    Wake,
    /// It was dead long enough: start it again.
    Rise,
}

/// The fates of some processes.
#[derive(Debug)]
pub struct Fates(Vec<Fate>);

impl Fates {
    pub fn of(processes: usize) -> Self {
        Self(vec![Fate::Alive; processes])
    }

    pub fn is_dead(&self, place: usize) -> bool {
        matches!(self.0[place], Fate::Dead(_))
    }

    /// Whether it neither sleeps nor is dead.
    pub fn is_well(&self, place: usize) -> bool {
        self.0[place] == Fate::Alive
    }

    /// Notes that it was stopped where it stands.
    pub fn sleeps(&mut self, place: usize, until: Instant) {
        self.0[place] = Fate::Asleep(until);
    }

    /// Notes that it was killed, asleep or not.
    pub fn dies(&mut self, place: usize, until: Instant) {
        self.0[place] = Fate::Dead(until);
    }

    /// Whether it has to be woken before anything else: from now on it counts as awake.
    pub fn wake(&mut self, place: usize) -> bool {
        let asleep = matches!(self.0[place], Fate::Asleep(_));
        if asleep {
            self.0[place] = Fate::Alive;
        }
        asleep
    }

    /// What is due by now; from now on they count as alive.
    pub fn due(&mut self, now: Instant) -> Vec<(usize, Turn)> {
        let mut turns = Vec::new();
        for (place, fate) in self.0.iter_mut().enumerate() {
            let turn = match *fate {
                Fate::Asleep(until) if until <= now => Turn::Wake,
                Fate::Dead(until) if until <= now => Turn::Rise,
                _ => continue,
            };
            *fate = Fate::Alive;
            turns.push((place, turn));
        }
        turns
    }
}
