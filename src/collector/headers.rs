//! Headers that a producer sent and the client cannot read: what identifies the message all the same, and what is odd about
//! them, in words for whoever wrote the producer.
//!
//! Headers do not make a document: a message with any of them is stored where its payload is good. Nothing here quotes a
//! value, which may be a secret. Called by the driver.

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;

/// The longest name that is quoted, in bytes.
const LONGEST: usize = 60;

/// The `Nats-Msg-Id`, as the bytes that were sent: two ids are two messages, whatever they hold.
pub fn message_id(headers: Option<&HeaderMap>) -> Option<&[u8]> {
    let headers = headers?;
    let readable = headers.get(NATS_MESSAGE_ID)?;
    // Of an id that is not text, the text that stands for it is not all that it is.
    let raw = headers.unreadable().find_map(|line| line.strip_prefix(b"Nats-Msg-Id:"));
    Some(raw.map_or(readable.as_str().as_bytes(), <[u8]>::trim_ascii))
}

/// What is odd about the headers or the subject of a message; `None` where nothing is.
pub fn oddity(subject: &str, headers: &HeaderMap) -> Option<String> {
    let line = headers.unreadable().next()?;
    if subject.contains('\u{fffd}') {
        return Some("its subject is not UTF-8".to_owned());
    }
    if line.is_empty() || line.starts_with(b"NATS/") {
        let status = line.starts_with(b"NATS/1.0");
        return Some(
            if status { "its first line holds a status, which only servers send" } else { "its first line is not 'NATS/1.0'" }.to_owned(),
        );
    }
    let Some(colon) = line.iter().position(|byte| *byte == b':') else {
        return Some(format!("a line of {} bytes has no colon", line.len()));
    };
    let name = &line[..colon];
    let quoted = name[..name.len().min(LONGEST)].escape_ascii();
    Some(if name.iter().all(u8::is_ascii_graphic) {
        format!("the value of '{quoted}' is not UTF-8, or holds a carriage return")
    } else {
        format!("'{quoted}' is no name of a header: spaces and letters beyond ASCII are not allowed in it")
    })
}

/// The lines that cannot be read, one after the other, as they came; empty where there are none.
pub fn raw(headers: &HeaderMap) -> Vec<u8> {
    headers.unreadable().flat_map(|line| [line, b"\n"].concat()).collect()
}
