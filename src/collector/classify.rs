//! To be written: classify.
