//! The identity of a message: twelve bytes that every delivery of the same message has in common, and no other message.
//!
//! Pure functions, frozen by golden vectors: an upgrade that changed them would store every message in flight a second
//! time. The identity becomes the document's ObjectId where the payload has no `_id`, and names dead letters.
//!
//! A message without a `Nats-Msg-Id` is told apart by publish time and sequence themselves rather than by a hash of them:
//! within a stream two messages can then never meet, where hashes only hardly ever do; and the ids of a stream ascend, so
//! that MongoDB appends to its index on `_id` instead of inserting all over the last second of it (measured: a quarter of
//! the database's CPU). Hashes are SHA-256 over a tag, length-prefixed fields and big-endian integers.

use sha2::{Digest, Sha256};

/// The identity of a message, in the form of an ObjectId.
pub type Identity = [u8; 12];

/// Makes the identities of one stream's messages.
#[derive(Debug, Clone)]
pub struct Identities {
    /// Hash of everything that all messages with a `Nats-Msg-Id` share.
    with_id: Sha256,
    /// Hash of everything that all messages without one share.
    without: Sha256,
    /// Where the stream's sequences begin to count in its identities.
    offset: u64,
}

/// How many bits of an identity the sequence and the stream have: what 12 bytes leave beside 32 bits of seconds and 30 of
/// nanoseconds.
const SEQUENCE_BITS: u32 = 34;

fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

impl Identities {
    /// Of the stream `name` that was created at `created_ns`, nanoseconds since the epoch.
    pub fn new(name: &str, created_ns: u64) -> Self {
        let mut with_id = Sha256::new_with_prefix(b"id1");
        field(&mut with_id, name.as_bytes());
        let mut without = Sha256::new_with_prefix(b"sq1");
        field(&mut without, name.as_bytes());
        without.update(created_ns.to_be_bytes());
        let hash = without.clone().finalize();
        let offset = hash.iter().take(8).fold(0, |offset, byte| offset << 8 | u64::from(*byte));
        Self { with_id, without, offset }
    }

    /// Of a message with a `Nats-Msg-Id`: 12 bytes of hash (tag, stream, id, payload). No time is in it: what a publisher
    /// sends again in the next second, after a restart of the server forgot its id, is the same message; the same id with
    /// another payload is another one.
    /// The id is bytes, since a producer may send any.
    pub fn with_message_id(&self, id: impl AsRef<[u8]>, payload: &[u8]) -> Identity {
        let mut hash = self.with_id.clone();
        field(&mut hash, id.as_ref());
        field(&mut hash, payload);
        let hash = hash.finalize();
        let mut identity = [0; 12];
        identity.copy_from_slice(&hash[..12]);
        identity
    }

    /// Of a message without one: 32 bits publish seconds, 30 bits publish nanoseconds, 34 bits of the sequence counted from
    /// a hash (tag, stream, creation of the stream). The publish time is in it because sequences are used again after a
    /// stream's tail was lost; the hash, because several streams may fill one collection.
    pub fn without_message_id(&self, sequence: u64, published_ns: u64) -> Identity {
        let mut identity = seconds_first(published_ns);
        let counted = self.offset.wrapping_add(sequence) & ((1 << SEQUENCE_BITS) - 1);
        let rest = (published_ns % 1_000_000_000) << SEQUENCE_BITS | counted;
        identity[4..].copy_from_slice(&rest.to_be_bytes());
        identity
    }

    /// The `_id` of a measurement: 4 bytes publish seconds, 5 bytes of hash, 3 bytes attempt. In the first attempt all
    /// three are zero.
    pub fn measurement(&self, sequence: u64, published_ns: u64, attempt: [u8; 3]) -> Identity {
        let hash = self.hash(sequence, published_ns);
        let mut identity = seconds_first(published_ns);
        identity[4..9].copy_from_slice(&hash[..5]);
        identity[9..].copy_from_slice(&attempt);
        identity
    }

    fn hash(&self, sequence: u64, published_ns: u64) -> [u8; 32] {
        let mut hash = self.without.clone();
        hash.update(sequence.to_be_bytes());
        hash.update(published_ns.to_be_bytes());
        hash.finalize().into()
    }
}

/// The `_id` of another attempt to store a measurement: never that of the first one.
pub fn attempt(identity: &Identity, random: [u8; 3]) -> Identity {
    let mut again = *identity;
    again[9..].copy_from_slice(&random);
    again[9] |= u8::from(random == [0; 3]);
    again
}

fn seconds_first(published_ns: u64) -> Identity {
    let mut identity = [0; 12];
    // ObjectIds hold 32 bits of seconds; they wrap in 2106, which costs order, not uniqueness.
    identity[..4].copy_from_slice(&((published_ns / 1_000_000_000) as u32).to_be_bytes());
    identity
}

/// The header of a dead letter that is sent into its stream again: the identity, in hex, that its document has instead of
/// one made from the new message. The original and every repeat of the replay then are one document.
pub const REPLAY_OF: &str = "Sluice-Replay-Of";

/// Whether `text` is an identity as [`hex`] writes it.
pub fn is_hex(text: &str) -> bool {
    parse(text).is_some()
}

/// The identity that [`hex`] wrote.
pub fn parse(text: &str) -> Option<Identity> {
    let digits: &[u8; 24] = text.as_bytes().try_into().ok()?;
    let mut identity = [0; 12];
    for (byte, pair) in identity.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [0, 1].map(|at| char::from(pair[at]).to_digit(16).filter(|_| !pair[at].is_ascii_uppercase()));
        *byte = u8::try_from(high? << 4 | low?).ok()?;
    }
    Some(identity)
}

/// The identity as 24 lowercase hex digits, as it stands in the subject of a dead letter.
pub fn hex(identity: &Identity) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    identity.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const CREATED: u64 = 1_700_000_000_123_456_789;
    const PUBLISHED: u64 = 1_700_000_042_987_654_321;

    #[test]
    fn identities_never_change_between_releases() {
        let identities = Identities::new("alpha_metrics", CREATED);
        assert_eq!(hex(&identities.without_message_id(7, PUBLISHED)), "6553f12aeb79a2c5b85d5c27");
        assert_eq!(hex(&identities.with_message_id("a-1", b"payload")), "d9a804c2e938d5ef34e32e28");
        assert_eq!(hex(&identities.measurement(7, PUBLISHED, [0; 3])), "6553f12ae7d7061c8e000000");
        assert_eq!(hex(&identities.measurement(7, PUBLISHED, [1, 2, 0xff])), "6553f12ae7d7061c8e0102ff");
        assert_eq!(hex(&Identities::new("", 0).measurement(0, 0, [0; 3])), "000000005270a77215000000");
        assert_eq!(hex(&Identities::new("", 0).without_message_id(0, 0)), "0000000000000003680171f4");
        assert_eq!(hex(&Identities::new("", 0).with_message_id("", b"")), "79ec7e525f68590a61715c91");
    }

    #[test]
    fn another_attempt_has_the_same_beginning_and_is_never_the_first() {
        let first = Identities::new("alpha_metrics", CREATED).measurement(7, PUBLISHED, [0; 3]);
        for random in [[0; 3], [1, 2, 3], [255; 3]] {
            let again = attempt(&first, random);
            assert!(again[..9] == first[..9] && again > first);
        }
    }

    #[test]
    fn the_hash_is_taken_over_tag_lengths_and_big_endian_integers() {
        let mut text = b"sq1".to_vec();
        text.extend(13u64.to_be_bytes());
        text.extend(b"alpha_metrics");
        text.extend([CREATED.to_be_bytes(), 7u64.to_be_bytes(), PUBLISHED.to_be_bytes()].concat());
        let identity = Identities::new("alpha_metrics", CREATED).measurement(7, PUBLISHED, [0; 3]);
        assert_eq!(identity[..4], 1_700_000_042u32.to_be_bytes());
        assert_eq!(identity[4..9], Sha256::digest(&text)[..5]);

        let mut text = b"id1".to_vec();
        for part in ["alpha_metrics", "a-1", "payload"] {
            text.extend((part.len() as u64).to_be_bytes());
            text.extend(part.bytes());
        }
        assert_eq!(Identities::new("alpha_metrics", 1).with_message_id("a-1", b"payload"), Sha256::digest(&text)[..12]);
    }

    #[test]
    fn a_publishers_retry_with_a_message_id_is_the_same_message() {
        let before = Identities::new("s", CREATED).with_message_id("id", b"payload");
        assert_eq!(Identities::new("s", CREATED + 1).with_message_id("id", b"payload"), before);
    }

    #[test]
    fn whatever_differs_makes_another_message() {
        let base = Identities::new("s", CREATED);
        let all = [
            base.without_message_id(7, PUBLISHED),
            base.without_message_id(8, PUBLISHED),
            base.without_message_id(7, PUBLISHED + 1),
            Identities::new("t", CREATED).without_message_id(7, PUBLISHED),
            Identities::new("s", CREATED + 1).without_message_id(7, PUBLISHED),
            base.with_message_id("id", b"payload"),
            base.with_message_id("id", b"payloae"),
            base.with_message_id("idp", b"ayload"),
            Identities::new("t", CREATED).with_message_id("id", b"payload"),
            base.measurement(7, PUBLISHED, [0; 3]),
            base.measurement(7, PUBLISHED, [0, 0, 1]),
        ];
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    #[test]
    fn an_identity_is_read_as_it_is_written_and_nothing_else_is() {
        let identity = Identities::new("s", CREATED).without_message_id(7, PUBLISHED);
        assert_eq!(parse(&hex(&identity)), Some(identity));
        for other in ["", "6553f12aeb79a2c5b85d5c2", "6553F12AEB79A2C5B85D5C27", "6553f12aeb79a2c5b85d5c2g", "6553f12aeb79a2c5b85d5c270"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn within_a_stream_no_two_messages_meet_and_ids_ascend_with_time(a in (0u64..1 << 33, 0..1u64 << 61), b in (0u64..1 << 33, 0..1u64 << 61)) {
            let identities = Identities::new("s", CREATED);
            let [first, second] = [a, b].map(|(sequence, at)| identities.without_message_id(sequence, at));
            proptest::prop_assert_eq!(a == b, first == second);
            if a.1 / 1_000_000_000 < 1 << 32 && b.1 / 1_000_000_000 < 1 << 32 && a.1 < b.1 {
                proptest::prop_assert!(first < second);
            }
        }

        #[test]
        fn fields_cannot_run_into_each_other(a in "[a-z]{0,4}", b in "[a-z]{0,4}", c in "[a-z]{0,4}", d in "[a-z]{0,4}") {
            proptest::prop_assume!((&a, &b) != (&c, &d));
            let identities = Identities::new("s", 0);
            proptest::prop_assert_ne!(identities.with_message_id(&a, b.as_bytes()), identities.with_message_id(&c, d.as_bytes()));
        }
    }
}
