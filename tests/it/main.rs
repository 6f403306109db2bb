//! The one integration binary: a file per area, each test named as a sentence.

mod lint;
mod settings;
