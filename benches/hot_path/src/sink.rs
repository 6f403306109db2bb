//! The crate's `sink` without its driver.

#[path = "../../../src/collector/sink/command.rs"]
mod command;
#[path = "../../../src/collector/sink/kind.rs"]
mod kind;

pub use command::MAX_DOCUMENT_BYTES;
pub use kind::FailureKind;

/// As in the crate.
pub struct Document {
    pub payload: bytes::Bytes,
    pub id: Option<[u8; 12]>,
}

/// What all commands begin with.
pub fn prologue() -> Vec<u8> {
    let concern = crate::pipeline::config::WriteConcern { w: "majority".into(), j: true };
    command::prologue("readings", &concern, std::time::Duration::from_secs(10))
}

/// The command that inserts documents.
pub fn build<'a>(prologue: &[u8], bytes: usize, documents: impl Iterator<Item = (&'a [u8], Option<[u8; 12]>)>) -> Vec<u8> {
    command::build(prologue, bytes, documents).0
}
