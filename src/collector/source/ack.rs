//! What an acknowledgement subject says about a delivery.
//!
//! Two formats (<https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-15.md>), read by hand without an
//! allocation, since it is done once a message:
//!
//! ```text
//! $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time, ns>.<pending>
//! $JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time, ns>.<pending>[.<token>…]
//! ```

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

impl AckSubject {
    /// Reads `subject`; `None` where it is no acknowledgement subject.
    pub fn parse(subject: &str) -> Option<Self> {
        let rest = subject.strip_prefix("$JS.ACK.")?;
        let mut tokens = rest.split('.');
        // Stream and consumer; domain and account before them in the second format.
        let names = match tokens.clone().count() {
            7 => 2,
            count if count >= 9 => 4,
            _ => return None,
        };
        for _ in 0..names {
            tokens.next()?;
        }
        let mut number = || tokens.next()?.parse::<u64>().ok();
        Some(Self {
            delivered: number()?,
            stream_sequence: number()?,
            consumer_sequence: number()?,
            published_ns: number()?,
            pending: number()?,
        })
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

    proptest! {
        #[test]
        fn no_subject_is_too_strange(subject in any::<String>(), tail in "[0-9.]{0,40}") {
            AckSubject::parse(&subject);
            AckSubject::parse(&format!("$JS.ACK.{tail}"));
        }
    }
}
