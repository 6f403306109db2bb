//! To be written: identity.
