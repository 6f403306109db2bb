//! What an object of an Object Store is on the wire, as every client library writes it: metadata, subjects, digest.
//!
//! Plain functions, no I/O. Configs and the payloads of dead letters are read and written by these.

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
pub(super) struct Meta {
    pub name: String,
    pub nuid: String,
    pub size: u64,
    pub chunks: u64,
    pub digest: String,
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

/// The subject of the metadata of the object `name`.
pub(super) fn meta_subject(bucket: &str, name: &str) -> String {
    format!("$O.{bucket}.M.{}", URL_SAFE.encode(name))
}

/// The subject of the chunks that are called `nuid`.
pub(super) fn chunk_subject(bucket: &str, nuid: &str) -> String {
    format!("$O.{bucket}.C.{nuid}")
}

/// The SHA-256 in a digest as the Object Store writes it.
pub(super) fn sum(digest: &str) -> Option<[u8; 32]> {
    let text = digest.strip_prefix("SHA-256=")?;
    LENIENT.decode(text).ok()?.try_into().ok()
}

/// A SHA-256 as the Object Store writes it.
pub(super) fn written(sum: &[u8]) -> String {
    format!("SHA-256={}", URL_SAFE.encode(sum))
}

/// The name of the object whose metadata subject ends in `token`.
pub(super) fn object_name(token: &str) -> Option<String> {
    String::from_utf8(LENIENT.decode(token).ok()?).ok()
}
