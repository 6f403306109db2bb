//! Target changes: where a pipeline's documents went before, and which of its messages may lie there already. Pure.
//!
//! What flows where: the plan ends a target change by [`Moves::arrive`], which notes the old target as a [`Previous`] one
//! with the stream's last sequence at that moment; the spec of the new execution carries it; the collector looks every
//! message that it [`Previous::concerns`] up there, before it inserts it into the new target. What was published after that
//! moment was never delivered to an execution of the old target, since the consumer was paused. It is forgotten once the
//! stream holds none of those messages any more. Several changes before that leave several previous targets.
//!
//! The bound is the stream's last sequence and not the consumer's last delivery: a consumer that was restored, recreated
//! or reset counts deliveries anew, and delivers again with count 1.

use super::spec::{ExecutionSpec, Target};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long after a target change what is delivered again, and what a publisher sends again after NATS forgot its
/// `Nats-Msg-Id`, is looked up too: NATS's default for remembering ids. At least 2 × ack_wait.
const AFTERWARDS: Duration = Duration::from_secs(120);

/// One place that documents go to, with what reading it back needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    /// Hosts, database, collection.
    pub target: Target,
    /// The connection's name in the settings, when it was written to. A hint: what counts are the hosts.
    #[serde(default)]
    pub connection: String,
    /// The fields of a time-series collection; `None` for a normal one.
    #[serde(default)]
    pub series: Option<Series>,
}

/// What tells the measurements of a time-series collection apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Series {
    /// The field with the date.
    pub time_field: String,
    /// The field with the source.
    pub meta_field: Option<String>,
}

/// Where documents go now, or went last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Home {
    /// The place.
    pub place: Place,
    /// The stream that they come from.
    pub stream: String,
}

/// Where documents went before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Previous {
    /// The place.
    pub place: Place,
    /// The stream that they came from.
    pub stream: String,
    /// When that stream was created; `None` where it was left together with the target: known when it is read again.
    pub created: Option<Timestamp>,
    /// The stream's last sequence when the target was left.
    pub up_to: u64,
    /// Until when what was published may concern it for another reason than its sequence.
    pub until: Timestamp,
}

/// What a delivery says of its message.
#[derive(Debug, Clone, Copy)]
pub struct Delivered {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When it was published, nanoseconds since the epoch.
    pub published_ns: u64,
    /// Whether the server knows of an earlier delivery.
    pub again: bool,
    /// Whether it has a `Nats-Msg-Id`.
    pub has_id: bool,
}

impl Previous {
    /// Whether the message may have been stored there: it was in the stream when the target was left; or it was published
    /// soon after, and is delivered again (an execution that was suspended and woke up may have stored it) or has an id (its
    /// publisher may have sent it before, and NATS forgotten that).
    pub fn concerns(&self, message: Delivered) -> bool {
        let soon_after = || i128::from(message.published_ns) < self.until.as_nanosecond();
        message.sequence <= self.up_to || ((message.again || message.has_id) && soon_after())
    }

    /// Its name for people, and the word by which an entry gives it up: `host:port/database.collection`.
    pub fn name(&self) -> String {
        self.place.target.to_string()
    }
}

/// What the end of a target change, and of a previous target, needs to know of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tape {
    /// When it was created.
    pub created: Timestamp,
    /// The sequence of its first message, or the next one where it is empty.
    pub first: u64,
    /// When its first message was published; `None` where it is empty.
    pub first_time: Option<Timestamp>,
    /// Its last sequence.
    pub last: u64,
    /// `ack_wait` of the durable.
    pub ack_wait: Duration,
}

/// All target changes of a pipeline, as its status keeps them; also while nothing is admitted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Moves {
    /// How many there were, previous targets that were given up included: executions with another number never run at the
    /// same time.
    pub count: u32,
    /// Where documents go.
    pub home: Option<Home>,
    /// Where they went, as far as the stream may hold messages that lie there; each target and stream once.
    pub previous: Vec<Previous>,
    /// Since when a target change has been under way.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// Whether the consumer may be paused for a target change: to be resumed by whoever finds the change over.
    #[serde(default)]
    pub paused: bool,
}

impl Moves {
    /// Where documents go or went last: as noted, else as `admitted` says.
    pub fn home(&self, admitted: Option<&ExecutionSpec>) -> Option<Home> {
        self.home.clone().or_else(|| admitted.map(Home::of))
    }

    /// The number that a spec for `target` has.
    pub fn number_for(&self, target: &Target, admitted: Option<&ExecutionSpec>, given_up: &[String]) -> u32 {
        let moves = self.home(admitted).is_some_and(|home| home.place.target != *target);
        self.count + u32::from(moves || self.gives_up(given_up))
    }

    /// Whether one of `names` is a previous target's.
    pub fn gives_up(&self, names: &[String]) -> bool {
        self.previous.iter().any(|previous| names.contains(&previous.name()))
    }

    /// The same with a target change under way since `now`, unless it is under way already.
    pub fn begun(&self, admitted: Option<&ExecutionSpec>, now: Timestamp) -> Self {
        Self { home: self.home(admitted), since: self.since.or(Some(now)), paused: true, ..self.clone() }
    }

    /// The same without a target change under way.
    pub fn ended(&self, admitted: Option<&ExecutionSpec>) -> Self {
        Self { home: self.home(admitted), since: None, ..self.clone() }
    }

    /// The same once documents go where `spec` says, with what is settled forgotten. Changes nothing where they do already
    /// and nothing has settled.
    pub fn arrive(&self, spec: &ExecutionSpec, admitted: Option<&ExecutionSpec>, given_up: &[String], tape: &Tape, now: Timestamp) -> Self {
        let home = Home::of(spec);
        let count = self.number_for(&spec.target, admitted, given_up);
        let mut previous = self.previous.clone();
        if let Some(left) = self.home(admitted).filter(|left| left.place.target != home.place.target || left.stream != home.stream) {
            previous.retain(|old| !(old.place.target == left.place.target && old.stream == left.stream));
            let here = left.stream == home.stream;
            let until = now.saturating_add(AFTERWARDS.max(2 * tape.ack_wait)).unwrap_or(Timestamp::MAX);
            previous.push(Previous {
                place: left.place,
                stream: left.stream,
                created: here.then_some(tape.created),
                up_to: if here { tape.last } else { u64::MAX },
                until,
            });
        }
        // Its own documents are found by their duplicate keys.
        previous.retain(|old| !(old.place.target == home.place.target && old.stream == home.stream));
        previous.retain(|old| !given_up.contains(&old.name()));
        for old in previous.iter_mut().filter(|old| old.stream == home.stream && old.created.is_none()) {
            old.created = Some(tape.created);
            old.up_to = old.up_to.min(tape.last);
        }
        previous.retain(|old| old.stream != home.stream || !old.is_settled(tape, now));
        Self { count, home: Some(home), previous, since: None, paused: self.paused }
    }

    /// `spec` with the previous targets that concern it.
    pub fn fill(&self, spec: &ExecutionSpec) -> ExecutionSpec {
        let concerns = |previous: &&Previous| previous.stream == spec.stream && previous.place.target != spec.target;
        ExecutionSpec { previous: self.previous.iter().filter(concerns).cloned().collect(), ..spec.clone() }
    }
}

impl Home {
    /// Where `spec` says that documents go.
    pub fn of(spec: &ExecutionSpec) -> Self {
        let place = Place { target: spec.target.clone(), connection: spec.connection.clone(), series: spec.series.clone() };
        Self { place, stream: spec.stream.clone() }
    }
}

impl Previous {
    /// Whether no message of its stream can concern it any more.
    fn is_settled(&self, tape: &Tape, now: Timestamp) -> bool {
        let another = self.created.is_some_and(|created| created != tape.created);
        let later = now >= self.until && tape.first_time.is_none_or(|first| first >= self.until);
        another || (tape.first > self.up_to && later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn spec(collection: &str, stream: &str) -> ExecutionSpec {
        let like = crate::pipeline::spec::tests::spec();
        ExecutionSpec { stream: stream.into(), target: Target { collection: collection.into(), ..like.target }, ..like }
    }

    fn tape(first: u64, last: u64) -> Tape {
        Tape { created: NOW, first, first_time: Some(NOW), last, ack_wait: Duration::from_secs(30) }
    }

    fn arrive(moves: &Moves, collection: &str, stream: &str, tape: &Tape) -> Moves {
        moves.arrive(&spec(collection, stream), None, &[], tape, NOW)
    }

    fn bounds(moves: &Moves, collection: &str, stream: &str) -> Vec<(String, u64)> {
        let filled = moves.fill(&spec(collection, stream));
        filled.previous.iter().map(|previous| (previous.place.target.collection.clone(), previous.up_to)).collect()
    }

    #[test]
    fn a_chain_of_changes_leaves_every_target_that_may_hold_something() {
        let a = arrive(&Moves::default(), "a", "s", &tape(1, 5));
        assert_eq!((a.count, a.previous.len()), (0, 0));
        let b = arrive(&a, "b", "s", &tape(1, 10));
        assert_eq!((b.count, bounds(&b, "b", "s")), (1, vec![("a".into(), 10)]));
        let c = arrive(&b, "c", "s", &tape(1, 20));
        assert_eq!((c.count, bounds(&c, "c", "s")), (2, vec![("a".into(), 10), ("b".into(), 20)]));
    }

    #[test]
    fn back_and_forth_keeps_each_other_target_once_with_its_newest_bound() {
        let mut moves = arrive(&Moves::default(), "a", "s", &tape(1, 5));
        for (number, collection) in ["b", "a", "b", "a"].into_iter().enumerate() {
            moves = arrive(&moves, collection, "s", &tape(1, 10 * (number as u64 + 1)));
        }
        assert_eq!((moves.count, bounds(&moves, "a", "s")), (4, vec![("b".into(), 40)]));
        let c = arrive(&moves, "c", "s", &tape(1, 50));
        assert_eq!(bounds(&c, "c", "s"), [("b".into(), 40), ("a".into(), 50)]);
    }

    #[test]
    fn a_previous_target_goes_once_the_stream_holds_nothing_of_its_time() {
        let a = arrive(&Moves::default(), "a", "s", &tape(1, 5));
        let b = arrive(&a, "b", "s", &tape(1, 10));
        let later = NOW.saturating_add(Duration::from_secs(121)).unwrap();
        let at = |first, first_time, now| b.arrive(&spec("b", "s"), None, &[], &Tape { first_time, ..tape(first, 12) }, now);
        assert_eq!(at(10, Some(later), later), b, "one of its messages is there");
        assert_eq!(at(11, None, NOW), b, "what is published again would be looked up");
        assert_eq!(at(11, Some(NOW), later), b, "a message of soon after is there");
        assert!(at(11, Some(later), later).previous.is_empty() && at(11, None, later).previous.is_empty());
        let anew = Tape { created: later, ..tape(1, 3) };
        assert!(b.arrive(&spec("b", "s"), None, &[], &anew, NOW).previous.is_empty(), "of a stream that is no more");
    }

    #[test]
    fn a_target_that_was_left_with_its_stream_counts_when_that_stream_is_read_again() {
        let a = arrive(&Moves::default(), "a", "s", &tape(1, 5));
        let b = arrive(&a, "b", "t", &tape(1, 99));
        assert_eq!(bounds(&b, "b", "t"), []);
        let c = arrive(&b, "c", "s", &tape(1, 7));
        assert_eq!(bounds(&c, "c", "s"), [("a".into(), 7)]);
        assert!(arrive(&b, "a", "s", &tape(1, 7)).fill(&spec("a", "s")).previous.is_empty());
    }

    #[test]
    fn a_target_that_is_given_up_is_another_change() {
        let b = arrive(&arrive(&Moves::default(), "a", "s", &tape(1, 5)), "b", "s", &tape(1, 10));
        let name = b.previous[0].name();
        assert_eq!(name, "localhost:27017/example.a");
        let without = b.arrive(&spec("b", "s"), None, std::slice::from_ref(&name), &tape(1, 10), NOW);
        assert_eq!((without.count, without.previous.len()), (2, 0));
        let again = without.arrive(&spec("b", "s"), None, &[name], &tape(1, 10), NOW);
        assert_eq!(again, without, "doing it twice is a no-op");
    }

    #[test]
    fn what_may_lie_in_a_previous_target_is_told_by_sequence_or_by_being_sent_again_soon_after() {
        let previous = Previous {
            place: Home::of(&spec("a", "s")).place,
            stream: "s".into(),
            created: Some(NOW),
            up_to: 10,
            until: Timestamp::from_second(100).unwrap(),
        };
        let message = Delivered { sequence: 11, published_ns: 99_000_000_000, again: false, has_id: false };
        assert!(previous.concerns(Delivered { sequence: 10, published_ns: u64::MAX, ..message }));
        assert!(!previous.concerns(message));
        assert!(previous.concerns(Delivered { again: true, ..message }) && previous.concerns(Delivered { has_id: true, ..message }));
        assert!(!previous.concerns(Delivered { again: true, has_id: true, published_ns: 100_000_000_000, ..message }));
    }
}
