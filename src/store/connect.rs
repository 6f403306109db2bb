//! NATS connection from settings.
