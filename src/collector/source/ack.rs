//! What an acknowledgement subject says about a delivery.
//!
//! Two formats (<https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-15.md>), read by hand without an
//! allocation, since it is done once a message:
//!
//! ```text
//! $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time, ns>.<pending>
//! $JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time, ns>.<pending>[.<token>…]
//! ```

const PREFIX: &str = "$JS.ACK.";

/// The parts of an acknowledgement subject that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckSubject {
    /// Deliveries of the message, this one included.
    pub delivered: u64,
    /// Its sequence in the stream.
    pub stream_sequence: u64,
    /// Its sequence at the consumer.
    pub consumer_sequence: u64,
    /// When it was published, nanoseconds since the epoch.
    pub published_ns: u64,
    /// How many messages were waiting behind it.
    pub pending: u64,
}

/// Tokens that are told apart: the second format has eleven and perhaps one behind them.
const TOKENS: usize = 12;

impl AckSubject {
    /// Reads `subject`; `None` where it is no acknowledgement subject.
    pub fn parse(subject: &str) -> Option<Self> {
        Self::read(subject).map(|(read, _)| read)
    }

    /// Reads `subject`, and how long what stands in front of the numbers is; `None` instead of that where something stands
    /// behind them, so that the numbers do not make the subject.
    pub(super) fn read(subject: &str) -> Option<(Self, Option<usize>)> {
        let rest = subject.strip_prefix(PREFIX)?.as_bytes();
        // Where each token begins.
        let mut starts = [0usize; TOKENS];
        let mut count = 1;
        for (at, byte) in rest.iter().enumerate() {
            if *byte == b'.' {
                if let Some(start) = starts.get_mut(count) {
                    *start = at + 1;
                }
                count += 1;
            }
        }
        // Stream and consumer; domain and account before them in the second format.
        let names = match count {
            7 => 2,
            count if count >= 9 => 4,
            _ => return None,
        };
        let number = |index: usize| {
            let mut value = 0u64;
            let digits = rest.get(starts[names + index]..)?.split(|byte| *byte == b'.').next().filter(|digits| !digits.is_empty())?;
            for digit in digits {
                let digit = digit.wrapping_sub(b'0');
                if digit > 9 {
                    return None;
                }
                value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
            }
            Some(value)
        };
        let read = Self {
            delivered: number(0)?,
            stream_sequence: number(1)?,
            consumer_sequence: number(2)?,
            published_ns: number(3)?,
            pending: number(4)?,
        };
        Some((read, (count == names + 5).then_some(PREFIX.len() + starts[names])))
    }

    /// Reads `subject` where it is `front` and the numbers, and nothing behind them: as nearly every subject is, once one was
    /// seen.
    pub(super) fn after(front: &str, subject: &str) -> Option<Self> {
        let rest = subject.as_bytes().strip_prefix(front.as_bytes())?;
        let mut numbers = [0u64; 5];
        let mut at = 0;
        for number in &mut numbers {
            // A dot between two of them.
            if at > 0 && rest.get(at - 1) != Some(&b'.') {
                return None;
            }
            let begin = at;
            while let Some(digit) = rest.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit <= 9) {
                *number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
                at += 1;
            }
            if at == begin {
                return None;
            }
            at += 1;
        }
        let [delivered, stream_sequence, consumer_sequence, published_ns, pending] = numbers;
        (at == rest.len() + 1).then_some(Self { delivered, stream_sequence, consumer_sequence, published_ns, pending })
    }

    /// The subject again, from what stood in front of the numbers.
    pub(super) fn subject(&self, front: &str) -> String {
        let Self { delivered, stream_sequence, consumer_sequence, published_ns, pending } = self;
        format!("{front}{delivered}.{stream_sequence}.{consumer_sequence}.{published_ns}.{pending}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const READ: AckSubject =
        AckSubject { delivered: 2, stream_sequence: 100, consumer_sequence: 101, published_ns: 1_794_361_635_123_456_789, pending: 7 };

    #[test]
    fn both_formats_are_read() {
        assert_eq!(AckSubject::parse("$JS.ACK.s.c.2.100.101.1794361635123456789.7"), Some(READ));
        assert_eq!(AckSubject::parse("$JS.ACK._.ACC.s.c.2.100.101.1794361635123456789.7"), Some(READ));
        assert_eq!(AckSubject::parse("$JS.ACK.hub.ACC.s.c.2.100.101.1794361635123456789.7.random"), Some(READ));
    }

    #[test]
    fn anything_else_is_no_acknowledgement_subject() {
        for subject in ["", "$JS.ACK.", "$JS.ACK.s.c.1.2.3.4", "$JS.ACK.s.c.1.2.3.4.x", "_INBOX.a", "$JS.ACK.d.s.c.1.2.3.4.5"] {
            assert_eq!(AckSubject::parse(subject), None, "{subject}");
        }
    }

    #[test]
    fn a_subject_that_was_read_can_be_made_again() {
        for subject in ["$JS.ACK.s.c.2.100.101.1794361635123456789.7", "$JS.ACK.hub.ACC.s.c.2.100.101.1794361635123456789.7"] {
            let (read, front) = AckSubject::read(subject).unwrap();
            assert_eq!(read.subject(&subject[..front.unwrap()]), subject);
        }
        let (_, front) = AckSubject::read("$JS.ACK.hub.ACC.s.c.2.100.101.1794361635123456789.7.random").unwrap();
        assert_eq!(front, None, "what stands behind the numbers is not made again");
    }

    #[test]
    fn a_front_that_is_known_is_a_shorter_way_to_the_same() {
        let front = "$JS.ACK.s.c.";
        assert_eq!(AckSubject::after(front, "$JS.ACK.s.c.2.100.101.1794361635123456789.7"), Some(READ));
        for subject in [
            "$JS.ACK.s.c.2.100.101.1794361635123456789",
            "$JS.ACK.s.c.2.100.101.1794361635123456789.",
            "$JS.ACK.s.c.2.100.101.1794361635123456789.7.token",
            "$JS.ACK.s.c.2.100..1794361635123456789.7",
            "$JS.ACK.s.c.2x100.101.1794361635123456789.7",
            "$JS.ACK.s.d.2.100.101.1794361635123456789.7",
            "$JS.ACK.s.c.99999999999999999999.100.101.1794361635123456789.7",
            "$JS.ACK.s.c.",
        ] {
            assert_eq!(AckSubject::after(front, subject), None, "{subject}");
        }
    }

    proptest! {
        #[test]
        fn the_shorter_way_finds_what_the_long_one_does(numbers in any::<[u64; 5]>(), tail in "[0-9.]{0,3}") {
            let [a, b, c, d, e] = numbers;
            let subject = format!("$JS.ACK.s.c.{a}.{b}.{c}.{d}.{e}{tail}");
            if let Some(read) = AckSubject::after("$JS.ACK.s.c.", &subject) {
                prop_assert_eq!(Some(read), AckSubject::parse(&subject));
            } else {
                prop_assert!(!tail.is_empty());
            }
        }

        #[test]
        fn no_subject_is_too_strange(subject in any::<String>(), tail in "[0-9.]{0,40}") {
            AckSubject::parse(&subject);
            AckSubject::parse(&format!("$JS.ACK.{tail}"));
        }
    }
}
