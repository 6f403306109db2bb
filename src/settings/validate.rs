//! To be written: validate.
