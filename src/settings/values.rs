//! To be written: values.
