//! Settings as properties.
