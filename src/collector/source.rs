//! To be written: source.
