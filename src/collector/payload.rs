//! To be written: payload.
