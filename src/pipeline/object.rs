//! What an object of an Object Store is on the wire, as every client library writes it: metadata, subjects, digest.
//!
//! Plain functions, no I/O. Configs and the payloads of dead letters are read and written by these, and metadata is always
//! put over what is there.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE};
use serde::Deserialize;

/// Base64url as names and digests are written, read with or without padding.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::URL_SAFE, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// An object's metadata, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// The object's name.
    pub name: String,
    /// What its chunks are called by.
    pub nuid: String,
    /// Its size in bytes.
    pub size: u64,
    /// The number of its chunks.
    pub chunks: u64,
    /// The digest, `SHA-256=…`.
    pub digest: String,
    /// Whether it is gone.
    pub deleted: bool,
    options: Option<Options>,
}

#[derive(Debug, Deserialize)]
struct Options {
    link: Option<serde::de::IgnoredAny>,
}

impl Meta {
    /// Whether it stands for another object.
    pub fn is_link(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.link.is_some())
    }

    /// Whether its chunks have a name that is safe in a subject.
    pub fn names_chunks(&self) -> bool {
        !self.nuid.is_empty() && self.nuid.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    }
}

/// What is behind base64 in an answer of the JetStream API.
pub fn decoded(text: &str) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// The subject of the metadata of the object `name`.
pub fn meta_subject(bucket: &str, name: &str) -> String {
    format!("$O.{bucket}.M.{}", URL_SAFE.encode(name))
}

/// The same as other clients write it, which leave the padding out; `None` where there is none to leave out.
pub fn unpadded_subject(bucket: &str, name: &str) -> Option<String> {
    let subject = meta_subject(bucket, name);
    subject.ends_with('=').then(|| subject.trim_end_matches('=').to_owned())
}

/// The subject of the chunks that are called `nuid`.
pub fn chunk_subject(bucket: &str, nuid: &str) -> String {
    format!("$O.{bucket}.C.{nuid}")
}

/// The SHA-256 in a digest as the Object Store writes it.
pub fn sum(digest: &str) -> Option<[u8; 32]> {
    let text = digest.strip_prefix("SHA-256=")?;
    LENIENT.decode(text).ok()?.try_into().ok()
}

/// A SHA-256 as the Object Store writes it.
pub fn written(sum: &[u8]) -> String {
    format!("SHA-256={}", URL_SAFE.encode(sum))
}

/// The name of the object whose metadata subject ends in `token`.
pub fn object_name(token: &str) -> Option<String> {
    String::from_utf8(LENIENT.decode(token).ok()?).ok()
}

/// Bytes a chunk, as every client library cuts them.
pub const CHUNK: usize = 128 << 10;

/// The metadata of the object `name`, `size` bytes in chunks of at most `chunk` that are called `nuid`, written at `now`
/// (RFC 3339).
pub fn metadata(bucket: &str, name: &str, nuid: &str, (size, chunk): (usize, usize), digest: &str, now: &str) -> String {
    serde_json::json!({
        "name": name,
        "bucket": bucket,
        "nuid": nuid,
        "size": size,
        "mtime": now,
        "chunks": size.div_ceil(chunk.max(1)),
        "digest": digest,
        "options": { "max_chunk_size": chunk },
    })
    .to_string()
}
