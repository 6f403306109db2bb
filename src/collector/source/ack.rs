//! What an acknowledgement subject says about a delivery.

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
