//! The gate that a process's pipelines share, and another pipeline of the process, which finds out about the database by
//! itself and takes its turns. Used by the world.

use super::database::Reply;
use super::mutants::Mutant;
use super::plan::What;
use super::process::Told;
use super::world::{Action, World};
use crate::collector::classify::Class;
use crate::collector::core::*;
use crate::collector::gate::{Gatekeeper, Member, Turn};

/// What a process knows of the gate.
#[derive(Debug)]
pub struct AtTheGate {
    keeper: Gatekeeper,
    me: Member,
    other: Member,
    /// Whether the pipeline was told that it is shut, and how many turns it was given and has not used.
    pub told: bool,
    pub turns: u32,
}

impl AtTheGate {
    pub fn new() -> Self {
        let mut keeper = Gatekeeper::new();
        let (me, other) = (keeper.join(), keeper.join());
        Self { keeper, me, other, told: false, turns: 0 }
    }
}

/// What came of a command: whether something was written, or why not.
pub type Came = Result<bool, Class>;

/// What the reply to an insert tells all.
pub fn came(reply: &Reply) -> Came {
    match reply {
        Reply::Executed { uncertain: None, .. } => Ok(true),
        Reply::Executed { uncertain: Some(Class::Transient), .. } | Reply::Failed(Class::Transient) => Err(Class::Transient),
        Reply::Executed { .. } | Reply::Failed(_) => Ok(false),
    }
}

impl World<'_> {
    /// What the pipeline itself found out.
    pub fn found_out(&mut self, p: usize, came: Came) {
        let me = self.processes[p].gate.me;
        self.at_the_gate(p, Some(me), came);
    }

    fn at_the_gate(&mut self, p: usize, by: Option<Member>, came: Came) {
        let random = self.random.below(1000) as f64 / 1000.0;
        let now = self.processes[p].clock(self.now);
        let keeper = &mut self.processes[p].gate.keeper;
        match came {
            Ok(wrote) => keeper.answered(wrote),
            Err(class) => keeper.failed(by, class, now, random),
        };
        let soon = self.random.below(5 * MS);
        self.later(soon, Action::Tell(p, None, Told::Gate));
        self.turn_when_due(p);
    }

    fn turn_when_due(&mut self, p: usize) {
        let process = &self.processes[p];
        if let Some(due) = process.gate.keeper.due() {
            let delay = due.saturating_sub(process.clock(self.now)).max(1);
            self.later(delay, Action::Tell(p, None, Told::Turn));
        }
    }

    /// The pipeline hears whether the gate is shut.
    pub fn hear_the_gate(&mut self, p: usize) {
        let gate = &mut self.processes[p].gate;
        let shut = gate.keeper.shut();
        if std::mem::replace(&mut gate.told, shut.is_some()) == shut.is_some() {
            return;
        }
        match (shut, self.mutant) {
            (Some(_), Some(Mutant::GateIgnored)) | (None, Some(Mutant::GateNeverOpens)) => {}
            (Some(class), _) => self.feed(p, Event::Gate(Gate::Shut(class))),
            (None, _) => {
                self.processes[p].database_failed.take_if(|class| *class == Class::Transient);
                self.feed(p, Event::Gate(Gate::Open));
            }
        }
    }

    /// Whose turn it is, if it is time.
    pub fn next_turn(&mut self, p: usize) {
        let process = &mut self.processes[p];
        let wants = process.core.wants_to_write();
        let now = process.clock(self.now);
        let gate = &mut process.gate;
        gate.keeper.wants(gate.me, wants);
        let turn = gate.keeper.turn(now);
        // Also where its clock stood still, and it is too early.
        self.turn_when_due(p);
        let Some(turn) = turn else { return };
        let gate = &mut self.processes[p].gate;
        if turn == Turn::Of(gate.me) {
            gate.turns += 1;
            // With its turn a pipeline hears what it is for.
            self.hear_the_gate(p);
            let once = if self.mutant == Some(Mutant::TurnTakenForAnOpenGate) { Gate::Open } else { Gate::Once };
            self.feed(p, Event::Gate(once));
        } else {
            let by = matches!(turn, Turn::Of(_));
            let delay = self.database_latency();
            self.later(delay, Action::Tell(p, None, Told::Other(Some(by))));
        }
    }

    /// The other pipeline does something of its own accord, or in its turn: whether by a write.
    pub fn other_pipeline(&mut self, p: usize, turn: Option<bool>) {
        let other = self.processes[p].gate.other;
        let failed = self.is(What::Away) || self.is(What::Mute) || self.is(What::Failover) && turn != Some(false);
        let came = if failed { Err(Class::Transient) } else { Ok(turn != Some(false)) };
        if turn.is_some() {
            self.at_the_gate(p, (turn == Some(true)).then_some(other), came);
            return;
        }
        if self.processes[p].gate.keeper.shut().is_none() {
            self.at_the_gate(p, Some(other), came);
        }
        let wants = self.random.below(2) == 0;
        self.processes[p].gate.keeper.wants(other, wants);
        if self.now < self.plan.quiet_from() {
            let again = self.random.below(4 * SECOND);
            self.later(SECOND / 4 + again, Action::Tell(p, None, Told::Other(None)));
        }
    }

    /// Something is sent to the database that takes a turn while the gate is shut.
    pub fn takes_its_turn(&mut self, p: usize, what: &str) {
        let gate = &mut self.processes[p].gate;
        let right = !gate.told || gate.turns > 0;
        gate.turns = gate.turns.saturating_sub(u32::from(gate.told));
        self.must(right, || format!("{what} while the gate is shut and it is not its turn"));
    }
}
