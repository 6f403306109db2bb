//! Counts the replies to acknowledgements and renewals: a call of many is confirmed as a whole.

use super::{REPLY_TIMEOUT, SourceEvent};
use std::time::Instant;

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Acknowledgements or terminations.
    Ack,
    /// Renewals.
    Renew,
}

/// The calls that wait for replies.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    calls: Vec<Call>,
}

#[derive(Debug)]
struct Call {
    id: u64,
    kind: Kind,
    token: u64,
    sent: Instant,
    of: usize,
    /// How many of the frames ask for a reply.
    asking: usize,
    answered: usize,
    confirmed: usize,
}

impl Call {
    fn event(&self) -> SourceEvent {
        let Self { token, sent, of, .. } = *self;
        // The server takes the frames of a connection in order: the last one's reply stands for those before it.
        let confirmed = if self.confirmed == self.asking { of } else { self.confirmed };
        match self.kind {
            Kind::Ack => SourceEvent::Acked { token, confirmed, of },
            Kind::Renew => SourceEvent::Renewed { token, sent, confirmed, of },
        }
    }
}

impl Tracker {
    /// A call of `of` frames is about to be sent, `asking` of which, the last of them among these, ask for a reply.
    pub(super) fn start(&mut self, id: u64, kind: Kind, token: u64, (of, asking): (usize, usize), now: Instant) {
        self.calls.push(Call { id, kind, token, sent: now, of, asking, answered: 0, confirmed: 0 });
    }

    /// The call was not sent after all.
    pub(super) fn forget(&mut self, id: u64) {
        self.calls.retain(|call| call.id != id);
    }

    /// A reply came; one that says "nobody was there" confirms nothing. Says when the call was sent: what arrives after the
    /// reply was delivered after that.
    pub(super) fn answered(&mut self, id: u64, confirmed: bool) -> Option<Instant> {
        let call = self.calls.iter_mut().find(|call| call.id == id)?;
        call.answered += 1;
        call.confirmed += usize::from(confirmed);
        Some(call.sent)
    }

    /// A call that is answered, or will not be any more at `now`.
    pub(super) fn finished(&mut self, now: Instant) -> Option<SourceEvent> {
        let done = |call: &Call| call.answered >= call.asking || now >= call.sent + REPLY_TIMEOUT;
        let at = self.calls.iter().position(done)?;
        Some(self.calls.swap_remove(at).event())
    }

    /// What is outstanding will not be answered: the connection is another one.
    pub(super) fn abandon(&mut self) -> impl Iterator<Item = SourceEvent> {
        self.calls.drain(..).map(|call| call.event())
    }

    /// When the first call times out.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.calls.iter().map(|call| call.sent + REPLY_TIMEOUT).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_finished_when_every_frame_is_answered_or_time_is_up() {
        let now = Instant::now();
        let mut tracker = Tracker::default();
        tracker.start(1, Kind::Ack, 71, (2, 2), now);
        tracker.start(2, Kind::Renew, 72, (1, 1), now);
        assert_eq!(tracker.answered(1, true), Some(now));
        assert!(tracker.finished(now).is_none());
        tracker.answered(1, false);
        assert!(matches!(tracker.finished(now), Some(SourceEvent::Acked { token: 71, confirmed: 1, of: 2 })));
        let late = tracker.deadline().unwrap();
        assert!(matches!(tracker.finished(late), Some(SourceEvent::Renewed { token: 72, confirmed: 0, of: 1, .. })));
        assert!(tracker.deadline().is_none());
    }

    #[test]
    fn the_last_frames_reply_stands_for_those_before_it() {
        let now = Instant::now();
        let mut tracker = Tracker::default();
        tracker.start(1, Kind::Ack, 71, (1000, 1), now);
        tracker.start(2, Kind::Ack, 72, (1000, 1), now);
        tracker.answered(1, true);
        assert!(matches!(tracker.finished(now), Some(SourceEvent::Acked { token: 71, confirmed: 1000, of: 1000 })));
        tracker.answered(2, false);
        assert!(matches!(tracker.finished(now), Some(SourceEvent::Acked { token: 72, confirmed: 0, of: 1000 })));
    }

    #[test]
    fn a_call_of_nothing_is_finished_at_once() {
        let mut tracker = Tracker::default();
        tracker.start(1, Kind::Ack, 71, (0, 0), Instant::now());
        assert!(matches!(tracker.finished(Instant::now()), Some(SourceEvent::Acked { confirmed: 0, of: 0, .. })));
    }
}
