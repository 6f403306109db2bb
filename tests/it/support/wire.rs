//! Ears on both wires: what Sluice and NATS, and Sluice and MongoDB, say to each other, frame by frame, in one order.
//!
//! Heard through [`Proxy`](super::Proxy)s, before it is passed on: whatever was said because of a frame comes after it.

use super::{Side, Tap};
use bson::Document;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

/// A command to the database: connection and request.
pub type Command = (u64, i32);

/// One frame.
#[derive(Debug, Clone)]
pub enum Heard {
    /// Sluice to the database.
    Asked { command: Command, body: Document },
    /// The database to Sluice.
    Answered { command: Command, body: Document },
    /// Sluice to NATS.
    Published { subject: String, reply: String, payload: Vec<u8> },
    /// NATS to Sluice.
    Delivered { subject: String, reply: String, payload: Vec<u8> },
}

/// What the subject that a message is acknowledged on says of its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// How often, this one included, as far as the server knows.
    pub count: u64,
    /// The sequence in its stream.
    pub sequence: u64,
}

/// Reads `$JS.ACK.…` of a stream.
pub fn delivery(subject: &str, stream: &str) -> Option<Delivery> {
    let words: Vec<_> = subject.strip_prefix("$JS.ACK.")?.split('.').collect();
    // Newer servers put domain and account in front.
    let at = words.iter().take(3).position(|word| *word == stream)?;
    let number = |n: usize| words.get(at + n)?.parse().ok();
    Some(Delivery { count: number(2)?, sequence: number(3)? })
}

#[derive(Default)]
struct State {
    /// What came of each connection and side and is not whole yet.
    rests: HashMap<(bool, u64, Side), Vec<u8>>,
    heard: Vec<Heard>,
}

/// Hears everything; clones share it.
#[derive(Clone, Default)]
pub struct Ears(Arc<Mutex<State>>);

impl Ears {
    /// For a proxy in front of NATS.
    pub fn nats(&self) -> Tap {
        self.tap(true, |state, rest, _, side| {
            while let Some((heard, taken)) = nats_frame(rest, side) {
                rest.drain(..taken);
                state.extend(heard);
            }
        })
    }

    /// For a proxy in front of the database.
    pub fn mongo(&self) -> Tap {
        self.tap(false, |state, rest, connection, side| {
            while let Some(length) =
                rest.first_chunk().map(|length| i32::from_le_bytes(*length) as usize).filter(|length| *length <= rest.len())
            {
                let frame: Vec<_> = rest.drain(..length).collect();
                state.extend(mongo_frame(&frame, connection, side));
            }
        })
    }

    fn tap(&self, nats: bool, read: impl Fn(&mut Vec<Heard>, &mut Vec<u8>, u64, Side) + Send + Sync + 'static) -> Tap {
        let state = self.0.clone();
        Arc::new(move |connection, side, bytes: &[u8]| {
            let mut state = state.lock().expect("no ear panics");
            let mut rest = state.rests.remove(&(nats, connection, side)).unwrap_or_default();
            rest.extend_from_slice(bytes);
            read(&mut state.heard, &mut rest, connection, side);
            state.rests.insert((nats, connection, side), rest);
        })
    }

    /// Everything so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.0.lock().expect("no ear panics").heard.clone()
    }

    /// How many frames so far: what comes from now on has this place and those after it.
    pub fn so_far(&self) -> usize {
        self.0.lock().expect("no ear panics").heard.len()
    }

    /// The deliveries of a stream's messages so far, with their payloads.
    pub fn deliveries(&self, stream: &str) -> Vec<(Delivery, Vec<u8>)> {
        let delivered = |heard: Heard| match heard {
            Heard::Delivered { reply, payload, .. } => Some((delivery(&reply, stream)?, payload)),
            _ => None,
        };
        self.heard().into_iter().filter_map(delivered).collect()
    }
}

/// The first whole frame, if it is one of messages, and how long it is.
fn nats_frame(bytes: &[u8], side: Side) -> Option<(Option<Heard>, usize)> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    // Verb, subject, id of the subscription, reply, bytes of headers, bytes in all.
    let (from_server, headers) = match words.first().map(|verb| verb.to_ascii_uppercase()).as_deref() {
        Some("PUB") => (false, false),
        Some("HPUB") => (false, true),
        Some("MSG") => (true, false),
        Some("HMSG") => (true, true),
        _ => return Some((None, end + 2)),
    };
    assert_eq!(from_server, side == Side::Server, "{line}");
    let number = |back: usize| words[words.len() - back].parse::<usize>().expect("a number of bytes");
    let (total, head) = (number(1), if headers { number(2) } else { 0 });
    let whole = end + 2 + total + 2;
    if bytes.len() < whole {
        return None;
    }
    let fixed = 2 + usize::from(from_server) + 1 + usize::from(headers);
    let reply = if words.len() > fixed { words[fixed - 1 - usize::from(headers)].to_owned() } else { String::new() };
    let (subject, payload) = (words[1].to_owned(), bytes[end + 2 + head..end + 2 + total].to_vec());
    let heard = if from_server { Heard::Delivered { subject, reply, payload } } else { Heard::Published { subject, reply, payload } };
    Some((Some(heard), whole))
}

/// A frame of one body (`OP_MSG`, section of kind 0); others are greetings of older kinds.
fn mongo_frame(frame: &[u8], connection: u64, side: Side) -> Option<Heard> {
    const OP_MSG: i32 = 2013;
    let number = |at: usize| frame.get(at..at + 4)?.try_into().ok().map(i32::from_le_bytes);
    if number(12)? != OP_MSG || *frame.get(20)? != 0 {
        return None;
    }
    let body = Document::from_reader(frame.get(21..)?).ok()?;
    Some(match side {
        Side::Client => Heard::Asked { command: (connection, number(4)?), body },
        Side::Server => Heard::Answered { command: (connection, number(8)?), body },
    })
}

#[test]
fn frames_of_nats_are_told_apart_however_they_are_cut() {
    let ears = Ears::default();
    let tap = ears.nats();
    let text = b"INFO {}\r\nMSG _INBOX.1 7 $JS.ACK.S.c.2.30.4.5.0 3\r\nPUB\r\nHMSG a.b 1 14 16\r\nNATS/1.0\r\n\r\n\r\nhi\r\n";
    text.iter().for_each(|byte| tap(1, Side::Server, &[*byte]));
    tap(1, Side::Client, b"CONNECT {}\r\nPUB a 0\r\n\r\nHPUB a r 14 14\r\nNATS/1.0\r\n\r\n\r\n\r\n");
    let heard = ears.heard();
    assert_eq!(heard.len(), 4, "{heard:?}");
    assert_eq!(ears.deliveries("S"), [(Delivery { count: 2, sequence: 30 }, b"PUB".to_vec())]);
    assert!(matches!(&heard[1], Heard::Delivered { subject, reply, payload } if subject == "a.b" && reply.is_empty() && payload == b"hi"));
    assert!(matches!(&heard[3], Heard::Published { subject, reply, payload } if subject == "a" && reply == "r" && payload.is_empty()));
    assert_eq!(delivery("$JS.ACK._.x.S.c.1.9.4.5.0.r", "S"), Some(Delivery { count: 1, sequence: 9 }));
}
