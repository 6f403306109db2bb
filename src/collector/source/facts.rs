//! What a stream and its durable are like, as far as the collector needs it.

use std::time::Duration;

/// What stream and consumer were like when asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerFacts {
    /// When the stream was created, nanoseconds since the epoch.
    pub stream_created_ns: u64,
    /// When the consumer was created, nanoseconds since the epoch.
    pub consumer_created_ns: u64,
    /// How long the server waits for an acknowledgement.
    pub ack_wait: Duration,
    /// How many messages may be unacknowledged over all executions; 0 or less: no limit.
    pub max_ack_pending: i64,
    /// How many pull requests may wait at the server.
    pub max_waiting: i64,
    /// How often a message is delivered at most; 0 or less: no limit.
    pub max_deliver: i64,
    /// The most messages of one request; 0: no limit.
    pub max_batch: i64,
    /// The most bytes of one request; 0: no limit.
    pub max_bytes: i64,
    /// The longest that a request may wait; zero: no limit.
    pub max_expires: Duration,
    /// Whether the consumer is paused.
    pub paused: bool,
    /// Messages not yet delivered.
    pub num_pending: u64,
    /// Messages delivered and not yet acknowledged.
    pub num_ack_pending: u64,
    /// Messages delivered more than once and not yet acknowledged.
    pub num_redelivered: u64,
    /// Pull requests waiting at the server.
    pub num_waiting: u64,
    /// The stream's last sequence.
    pub last_sequence: u64,
}
