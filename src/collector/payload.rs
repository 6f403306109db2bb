//! What a payload is, found without decoding it: whether it is one valid BSON document that MongoDB can store, and whether
//! it has an `_id`.
//!
//! Pure. Every element is walked (lengths, types, UTF-8, depth) on a stack of fixed size: no allocation, no recursion, no
//! panic on any bytes. Payloads come from anybody who may publish. Called once for each message.

use super::sink::MAX_DOCUMENT_BYTES;

/// How deep documents and arrays may lie in each other, the document itself counted.
pub const MAX_DEPTH: usize = 100;

/// What an added `_id` takes: type, name with its end, value.
const ADDED_ID: usize = 1 + 4 + 12;

/// Why a payload cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not one BSON document.
    #[error("the payload is not a BSON document: {0}")]
    Malformed(&'static str),
    /// Valid, but deeper than MongoDB stores.
    #[error("the document is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// Larger than MongoDB stores.
    #[error("the document is larger than 16 MiB with its _id")]
    TooLarge,
}

/// What a valid payload is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Whether there is an `_id` at the top level.
    pub has_id: bool,
}

/// Checks all of `bytes`.
pub fn inspect(bytes: &[u8]) -> Result<Facts, Fault> {
    let end = frame(bytes, 0, bytes.len())?;
    if end != bytes.len() {
        return Err(Fault::Malformed("its length is not the payload's"));
    }
    // Where each open document ends: one past its terminating zero.
    let mut ends = [0usize; MAX_DEPTH];
    ends[0] = end;
    let mut depth = 1;
    let mut position = 4;
    let mut has_id = false;
    while depth > 0 {
        let end = ends[depth - 1];
        // Within a frame, so the byte at `end - 1` is the terminating zero.
        let kind = *bytes.get(position).ok_or(Fault::Malformed("an element is cut off"))?;
        position += 1;
        if kind == 0 {
            if position != end {
                return Err(Fault::Malformed("a document ends before its length"));
            }
            depth -= 1;
            continue;
        }
        let content = end - 1;
        let name = cstring(bytes, position, content)?;
        has_id |= depth == 1 && name == b"_id";
        position += name.len() + 1;
        let size = match kind {
            0x03 | 0x04 => {
                push(&mut ends, &mut depth, frame(bytes, position, content)?)?;
                4
            }
            0x0f => {
                let total = length(bytes, position, content)?;
                let scope = position + 4 + string(bytes, position + 4, content)?;
                if frame(bytes, scope, content)? != position + total {
                    return Err(Fault::Malformed("code with scope has a wrong length"));
                }
                push(&mut ends, &mut depth, position + total)?;
                scope + 4 - position
            }
            _ => plain(bytes, kind, position, content)?,
        };
        position += size;
        if position > ends[depth - 1] - 1 {
            return Err(Fault::Malformed("a value is longer than its document"));
        }
    }
    if bytes.len() + if has_id { 0 } else { ADDED_ID } > MAX_DOCUMENT_BYTES {
        return Err(Fault::TooLarge);
    }
    Ok(Facts { has_id })
}

fn push(ends: &mut [usize; MAX_DEPTH], depth: &mut usize, end: usize) -> Result<(), Fault> {
    *ends.get_mut(*depth).ok_or(Fault::TooDeep)? = end;
    *depth += 1;
    Ok(())
}

/// The size of a value that contains no document.
fn plain(bytes: &[u8], kind: u8, at: usize, end: usize) -> Result<usize, Fault> {
    Ok(match kind {
        0x01 | 0x09 | 0x11 | 0x12 => 8,
        0x02 | 0x0d | 0x0e => string(bytes, at, end)?,
        0x05 => binary(bytes, at, end)?,
        0x06 | 0x0a | 0x7f | 0xff => 0,
        0x07 => 12,
        0x08 => match bytes.get(at) {
            Some(0 | 1) => 1,
            _ => return Err(Fault::Malformed("a boolean is neither 0 nor 1")),
        },
        0x0b => {
            let pattern = cstring(bytes, at, end)?.len() + 1;
            pattern + cstring(bytes, at + pattern, end)?.len() + 1
        }
        0x0c => string(bytes, at, end)? + 12,
        0x10 => 4,
        0x13 => 16,
        _ => return Err(Fault::Malformed("an element has an unknown type")),
    })
}

/// The length that stands at `at`, which is not negative.
fn length(bytes: &[u8], at: usize, end: usize) -> Result<usize, Fault> {
    let four = bytes.get(at..end).and_then(|rest| rest.first_chunk::<4>()).ok_or(Fault::Malformed("a length is cut off"))?;
    usize::try_from(i32::from_le_bytes(*four)).map_err(|_| Fault::Malformed("a length is negative"))
}

/// Where the document at `at` ends; its frame is checked.
fn frame(bytes: &[u8], at: usize, end: usize) -> Result<usize, Fault> {
    let size = length(bytes, at, end)?;
    if size < 5 || size > end - at {
        return Err(Fault::Malformed("a document's length is wrong"));
    }
    match bytes.get(at + size - 1) {
        Some(0) => Ok(at + size),
        _ => Err(Fault::Malformed("a document has no end")),
    }
}

/// The UTF-8 text at `at` up to a zero that lies before `end`.
fn cstring(bytes: &[u8], at: usize, end: usize) -> Result<&[u8], Fault> {
    let rest = bytes.get(at..end).ok_or(Fault::Malformed("a name is cut off"))?;
    let size = rest.iter().position(|byte| *byte == 0).ok_or(Fault::Malformed("a name has no end"))?;
    utf8(&rest[..size])?;
    Ok(&rest[..size])
}

/// The size of the string value at `at`, length and terminating zero included.
fn string(bytes: &[u8], at: usize, end: usize) -> Result<usize, Fault> {
    let size = length(bytes, at, end)?;
    let text = bytes.get(at + 4..end).and_then(|rest| rest.get(..size)).ok_or(Fault::Malformed("a string is cut off"))?;
    match text.split_last() {
        Some((0, text)) => utf8(text)?,
        _ => return Err(Fault::Malformed("a string has no end")),
    }
    Ok(4 + size)
}

fn utf8(text: &[u8]) -> Result<(), Fault> {
    if text.is_ascii() || std::str::from_utf8(text).is_ok() { Ok(()) } else { Err(Fault::Malformed("a text is not UTF-8")) }
}

fn binary(bytes: &[u8], at: usize, end: usize) -> Result<usize, Fault> {
    let size = length(bytes, at, end)?;
    let rest = bytes.get(at + 4..end).ok_or(Fault::Malformed("a binary is cut off"))?;
    let (Some(subtype), true) = (rest.first(), rest.len() > size) else {
        return Err(Fault::Malformed("a binary is cut off"));
    };
    // The old subtype has a second length inside.
    if *subtype == 2 && (size < 4 || length(bytes, at + 5, end)? != size - 4) {
        return Err(Fault::Malformed("an old binary has a wrong length"));
    }
    Ok(4 + 1 + size)
}

#[cfg(test)]
#[path = "payload/tests.rs"]
mod tests;
