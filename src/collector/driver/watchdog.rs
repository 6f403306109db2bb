//! Whether the durable gives what it should: a consumer that is stuck answers as any other, sends heartbeats, and only its
//! numbers tell. Pure; part of the driver, which asks it after each look at stream and consumer.
//!
//! What always holds: numbers that move accuse nobody. The two of them are read one after the other, under a load of
//! several executions too, so that only what stands still between two looks is believed; and a pause that soon ends, as that of
//! a target change does, is nobody's business.

use crate::collector::source::ConsumerFacts;
use std::time::{Duration, Instant};

/// How soon what looks odd is looked at again, where messages are beyond reach.
const SOON: Duration = Duration::from_secs(2);
/// How long a durable may be paused while something waits.
const PAUSED: Duration = Duration::from_secs(3);
/// How long messages that wait may not move while a request for them waits, too.
const STILL: Duration = Duration::from_secs(10);

/// What comes of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is wrong.
    Fine,
    /// To be looked at again after this time.
    Odd(Duration),
    /// Why nothing comes, for people; and whether requests made anew may help.
    Stuck(String, bool),
}

/// The numbers that have to stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Numbers {
    messages: u64,
    pending: u64,
    ack_pending: u64,
    delivered: u64,
    received: u64,
}

/// Remembers the last odd look.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    odd: Option<(Numbers, Instant)>,
    paused: Option<Instant>,
}

impl Watchdog {
    /// Takes in a look. `asks`: a pull request waits at the server; `received`: messages that arrived here so far.
    pub(super) fn look(&mut self, facts: &ConsumerFacts, asks: bool, received: u64, now: Instant) -> Verdict {
        let ConsumerFacts { messages, num_pending, num_ack_pending, .. } = *facts;
        if facts.paused && messages > 0 {
            self.odd = None;
            let since = *self.paused.get_or_insert(now);
            return match (since + PAUSED).saturating_duration_since(now) {
                Duration::ZERO => Verdict::Stuck(format!("the durable is paused, and {messages} messages wait"), false),
                left => Verdict::Odd(left),
            };
        }
        self.paused = None;
        let beyond = messages.saturating_sub(num_pending + num_ack_pending);
        let room = facts.max_ack_pending <= 0 || num_ack_pending < facts.max_ack_pending.unsigned_abs();
        let withheld = num_pending > 0 && asks && room;
        if beyond == 0 && !withheld {
            self.odd = None;
            return Verdict::Fine;
        }
        let numbers =
            Numbers { messages, pending: num_pending, ack_pending: num_ack_pending, delivered: facts.delivered_sequence, received };
        // Others may publish all the time; what counts is that nothing is delivered.
        let still = |old: &Numbers| match beyond > 0 {
            true => *old == numbers,
            false => (old.delivered, old.received) == (numbers.delivered, numbers.received),
        };
        let long = if beyond > 0 { SOON } else { STILL };
        match self.odd.filter(|(old, _)| still(old)) {
            Some((_, since)) if now >= since + long => Verdict::Stuck(why(facts, beyond), withheld),
            Some((_, since)) => Verdict::Odd((since + long).saturating_duration_since(now)),
            None => {
                self.odd = Some((numbers, now));
                Verdict::Odd(long)
            }
        }
    }
}

fn why(facts: &ConsumerFacts, beyond: u64) -> String {
    match (beyond, facts.max_deliver) {
        (0, _) => format!("the durable delivers none of {} messages that wait, although they were asked for", facts.num_pending),
        (_, most @ 1..) => format!(
            "{beyond} messages were delivered {most} times, as often as the durable's max_deliver allows, and lie in the stream unseen"
        ),
        _ => format!("{beyond} messages of the stream are neither waiting nor delivered, as far as the durable knows"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> ConsumerFacts {
        ConsumerFacts {
            stream_created_ns: 1,
            consumer_created_ns: 1,
            ack_wait: Duration::from_secs(30),
            max_ack_pending: 1000,
            max_waiting: 512,
            max_deliver: -1,
            max_batch: 0,
            max_bytes: 0,
            max_expires: Duration::ZERO,
            unfit: None,
            paused: false,
            messages: 10,
            num_pending: 10,
            num_ack_pending: 0,
            num_redelivered: 0,
            num_waiting: 1,
            delivered_sequence: 5,
            last_sequence: 15,
            first_published_ns: 1,
        }
    }

    #[test]
    fn messages_that_wait_while_a_request_waits_too_are_believed_to_be_stuck_once_they_stood_still() {
        let (mut dog, now) = (Watchdog::default(), Instant::now());
        assert_eq!(dog.look(&facts(), false, 0, now), Verdict::Fine, "nobody asked for them");
        assert_eq!(
            dog.look(&ConsumerFacts { max_ack_pending: 3, num_ack_pending: 3, messages: 13, ..facts() }, true, 0, now),
            Verdict::Fine
        );
        assert_eq!(dog.look(&facts(), true, 0, now), Verdict::Odd(STILL));
        assert_eq!(dog.look(&facts(), true, 1, now + STILL), Verdict::Odd(STILL), "something came");
        let more = ConsumerFacts { messages: 12, num_pending: 12, ..facts() };
        assert!(matches!(dog.look(&more, true, 1, now + 2 * STILL), Verdict::Stuck(_, true)), "also where others publish");
        assert_eq!(dog.look(&ConsumerFacts { messages: 0, num_pending: 0, ..facts() }, true, 1, now + 2 * STILL), Verdict::Fine);
    }

    #[test]
    fn messages_beyond_the_durables_reach_are_found_and_numbers_that_move_accuse_nobody() {
        let (mut dog, now) = (Watchdog::default(), Instant::now());
        let unseen = ConsumerFacts { num_pending: 4, max_deliver: 2, ..facts() };
        for second in 0..100 {
            // Read one after the other under a load.
            let moving = ConsumerFacts { delivered_sequence: second, ..unseen.clone() };
            assert_eq!(dog.look(&moving, true, second, now + Duration::from_secs(second)), Verdict::Odd(SOON));
        }
        let now = now + Duration::from_secs(200);
        assert_eq!(dog.look(&unseen, true, 0, now), Verdict::Odd(SOON));
        let Verdict::Stuck(why, _) = dog.look(&unseen, true, 0, now + SOON) else { panic!("not found") };
        assert!(why.contains("6 messages") && why.contains("max_deliver"), "{why}");
    }

    #[test]
    fn a_paused_durable_is_stuck_once_something_has_waited_for_seconds() {
        let (mut dog, now) = (Watchdog::default(), Instant::now());
        let paused = ConsumerFacts { paused: true, ..facts() };
        assert_eq!(dog.look(&paused, true, 0, now), Verdict::Odd(PAUSED));
        assert!(matches!(dog.look(&paused, true, 0, now + PAUSED), Verdict::Stuck(_, false)));
        assert_eq!(dog.look(&facts(), false, 0, now + PAUSED), Verdict::Fine);
        assert_eq!(dog.look(&paused, true, 0, now + 2 * PAUSED), Verdict::Odd(PAUSED), "another pause");
        let empty = ConsumerFacts { paused: true, messages: 0, num_pending: 0, ..facts() };
        assert_eq!(dog.look(&empty, true, 0, now), Verdict::Fine);
    }
}
