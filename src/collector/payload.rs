//! What a payload is, found without decoding it: whether it is one valid BSON document that MongoDB can store, and whether
//! it has an `_id`.
//!
//! Pure. Every element is walked (lengths, types, UTF-8, depth) on a stack of fixed size: no allocation, no recursion, no
//! panic on any bytes. Payloads come from anybody who may publish. Called once for each message.

#[path = "payload/appearance.rs"]
mod appearance;

pub use appearance::describe;

use super::sink::MAX_DOCUMENT_BYTES;

/// How deep documents and arrays may lie in each other, the document itself counted.
pub const MAX_DEPTH: usize = 100;

/// What an added `_id` takes: type, name with its end, value.
const ADDED_ID: usize = 1 + 4 + 12;

/// The most that a measurement may have without its meta field, in bytes. MongoDB stores it three times in its bucket (the value,
/// the smallest and the largest of the bucket), and fills buckets up to 12 MiB (`Bucket::kLargeMeasurementsMaxBucketSize`).
pub const MAX_MEASUREMENT_BYTES: usize = 4 << 20;

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
    /// Larger than a bucket of a time-series collection takes.
    #[error("the measurement is larger than 4 MiB without its meta field: a bucket holds it three times, and takes no more")]
    MeasurementTooLarge,
    /// A measurement with one name twice: the server counts one value for both, and shifts those of its neighbours in the bucket.
    #[error("the measurement has two fields of one name at the top level: a bucket would mix its values up with those of others")]
    FieldTwice,
}

/// What a valid payload is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Whether there is an `_id` at the top level.
    pub has_id: bool,
}

/// Checks all of `bytes`.
pub fn inspect(bytes: &[u8]) -> Result<Facts, Fault> {
    walk(bytes, |_, _| {})
}

/// Checks all of `bytes`, a measurement of a time-series collection with this meta field.
pub fn inspect_measurement(bytes: &[u8], meta: Option<&str>) -> Result<Facts, Fault> {
    let mut names = Names::default();
    let mut meta_bytes = 0;
    let facts = walk(bytes, |name, whole| {
        names.add(name);
        if meta.is_some_and(|meta| meta.as_bytes() == name) {
            meta_bytes += whole;
        }
    })?;
    if names.twice() {
        return Err(Fault::FieldTwice);
    }
    if bytes.len() - meta_bytes > MAX_MEASUREMENT_BYTES {
        return Err(Fault::MeasurementTooLarge);
    }
    Ok(facts)
}

/// The names at the top level of one document, to find one that is there twice.
struct Names<'a> {
    /// Those with the same bit may be the same.
    bits: u64,
    first: [&'a [u8]; FEW],
    count: usize,
    /// Where there are more than `first` holds.
    others: Vec<&'a [u8]>,
    twice: bool,
}

/// Names that are compared one by one, where they share a bit: measurements have few.
const FEW: usize = 32;

impl Default for Names<'_> {
    fn default() -> Self {
        Self { bits: 0, first: [&[]; FEW], count: 0, others: Vec::new(), twice: false }
    }
}

impl<'a> Names<'a> {
    #[inline]
    fn add(&mut self, name: &'a [u8]) {
        let sum = name.iter().fold(name.len(), |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
        let bit = 1u64 << ((sum ^ (sum >> 6)) % 64);
        if self.bits & bit != 0 && self.first[..self.count].contains(&name) {
            self.twice = true;
        }
        self.bits |= bit;
        match self.first.get_mut(self.count) {
            Some(free) => {
                *free = name;
                self.count += 1;
            }
            None => self.others.push(name),
        }
    }

    fn twice(mut self) -> bool {
        self.others.sort_unstable();
        self.twice || self.others.windows(2).any(|pair| pair[0] == pair[1])
    }
}

/// Checks all of `bytes`; tells the name and the size of each element at the top level.
#[inline]
fn walk<'a>(bytes: &'a [u8], mut tell: impl FnMut(&'a [u8], usize)) -> Result<Facts, Fault> {
    let end = frame(bytes, 0, bytes.len())?;
    if end != bytes.len() {
        return Err(Fault::Malformed("its length is not the payload's"));
    }
    // The last byte is the terminating zero.
    let content = end - 1;
    let mut position = 4;
    let mut has_id = false;
    while position < content {
        let (kind, name, value) = element(bytes, position, content)?;
        has_id |= name == b"_id";
        // Most documents are flat: what others need is not even set up for them.
        let next = match kind {
            0x03 | 0x04 | 0x0f => nested(bytes, kind, value, content)?,
            _ => value + plain(bytes, kind, value, content)?,
        };
        tell(name, next - position);
        position = next;
    }
    if position != content {
        return Err(Fault::Malformed("a value is longer than its document"));
    }
    if bytes.len() + if has_id { 0 } else { ADDED_ID } > MAX_DOCUMENT_BYTES {
        return Err(Fault::TooLarge);
    }
    Ok(Facts { has_id })
}

/// Checks the document, array or scope at `at`, whatever lies in it; where its value ends.
fn nested(bytes: &[u8], kind: u8, at: usize, content: usize) -> Result<usize, Fault> {
    // Where each open document ends: one past its terminating zero.
    let mut ends = [0usize; MAX_DEPTH];
    // The first level is the payload itself.
    let mut depth = 1;
    let mut position = open(bytes, kind, at, content, (&mut ends, &mut depth))?;
    let whole = ends[1];
    while depth > 1 {
        let content = ends[depth - 1] - 1;
        if position >= content {
            if position > content {
                return Err(Fault::Malformed("a value is longer than its document"));
            }
            position += 1;
            depth -= 1;
            continue;
        }
        let (kind, _, value) = element(bytes, position, content)?;
        position = match kind {
            0x03 | 0x04 | 0x0f => open(bytes, kind, value, content, (&mut ends, &mut depth))?,
            _ => value + plain(bytes, kind, value, content)?,
        };
    }
    debug_assert_eq!(position, whole);
    Ok(whole)
}

/// The type and the name of the element at `at`, and where its value begins.
#[inline]
fn element(bytes: &[u8], at: usize, content: usize) -> Result<(u8, &[u8], usize), Fault> {
    let kind = *bytes.get(at).ok_or(Fault::Malformed("an element is cut off"))?;
    if kind == 0 {
        return Err(Fault::Malformed("a document ends before its length"));
    }
    let name = cstring(bytes, at + 1, content)?;
    Ok((kind, name, at + 1 + name.len() + 1))
}

/// Goes into the document, array or code with scope at `at`: where its first element begins.
fn open(bytes: &[u8], kind: u8, at: usize, content: usize, (ends, depth): (&mut [usize; MAX_DEPTH], &mut usize)) -> Result<usize, Fault> {
    if kind != 0x0f {
        push(ends, depth, frame(bytes, at, content)?)?;
        return Ok(at + 4);
    }
    let total = length(bytes, at, content)?;
    let scope = at + 4 + string(bytes, at + 4, content)?;
    if frame(bytes, scope, content)? != at + total {
        return Err(Fault::Malformed("code with scope has a wrong length"));
    }
    push(ends, depth, at + total)?;
    Ok(scope + 4)
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
    // Names are short: one look at each byte is the least there is.
    let mut any = 0;
    for (size, byte) in rest.iter().enumerate() {
        if *byte == 0 {
            let name = &rest[..size];
            if any >= 0x80 {
                utf8(name)?;
            }
            return Ok(name);
        }
        any |= *byte;
    }
    Err(Fault::Malformed("a name has no end"))
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
