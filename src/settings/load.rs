//! To be written: load.
