//! To be written: dead_letters.
