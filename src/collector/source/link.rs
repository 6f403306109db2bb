//! The state of the one NATS connection, watched once for all sources.
