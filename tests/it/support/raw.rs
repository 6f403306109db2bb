//! A producer without a client library: it sends whatever bytes it is told to, as any program with a socket can.

use std::collections::BTreeSet;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A connection to a nats-server.
pub struct RawProducer {
    stream: TcpStream,
    /// What the server said and nobody has looked at.
    said: Vec<u8>,
}

impl RawProducer {
    /// Connects without credentials.
    pub async fn connect(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("nats-server listens");
        let hello = b"CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB _RAW.reply 1\r\n";
        stream.write_all(hello).await.expect("it takes what is sent");
        Self { stream, said: Vec::new() }
    }

    /// Sends a message; with a header block where one is given, which may be any bytes.
    pub async fn send(&mut self, subject: &[u8], reply: &[u8], header: Option<&[u8]>, payload: &[u8]) {
        let header_bytes = header.unwrap_or_default();
        let sizes = match header {
            Some(header) => format!(" {} {}\r\n", header.len(), header.len() + payload.len()),
            None => format!(" {}\r\n", payload.len()),
        };
        let verb: &[u8] = if header.is_some() { b"HPUB " } else { b"PUB " };
        let frame = [verb, subject, b" ", reply, sizes.as_bytes(), header_bytes, payload, b"\r\n"].concat();
        self.stream.write_all(&frame).await.expect("it takes what is sent");
    }

    /// The same into a stream; the sequence that it was given.
    pub async fn publish(&mut self, subject: &[u8], header: Option<&[u8]>, payload: &[u8]) -> u64 {
        self.send(subject, b"_RAW.reply", header, payload).await;
        loop {
            let text = String::from_utf8_lossy(&self.said).into_owned();
            assert!(!text.contains("-ERR") && !text.contains("\"error\""), "{text}");
            if let Some((_, after)) = text.split_once("\"seq\":")
                && let Some(end) = after.find(|c: char| !c.is_ascii_digit())
            {
                self.said.clear();
                return after[..end].parse().expect("digits");
            }
            let mut buffer = [0; 4096];
            let read = self.stream.read(&mut buffer).await.expect("the server answers");
            assert!(read > 0, "the server has closed the connection: {text}");
            self.said.extend_from_slice(&buffer[..read]);
            if buffer[..read].starts_with(b"PING") {
                self.stream.write_all(b"PONG\r\n").await.expect("it takes what is sent");
            }
        }
    }
}

/// Header blocks that servers store and that are not as NATS defines them.
pub fn odd_headers() -> Vec<(&'static str, &'static [u8])> {
    vec![
        ("a space in a name", b"NATS/1.0\r\nMy Header: x\r\n\r\n"),
        ("a name beyond ASCII", b"NATS/1.0\r\nGr\xc3\xb6\xc3\x9fe: 3\r\n\r\n"),
        ("a name that is not UTF-8", b"NATS/1.0\r\nGr\xf6\xdfe: 3\r\n\r\n"),
        ("a value in Latin-1", b"NATS/1.0\r\nPlace: caf\xe9\r\nTrace: 1\r\n\r\n"),
        ("an id in Latin-1", b"NATS/1.0\r\nNats-Msg-Id: caf\xe9\r\n\r\n"),
        ("a line without a colon", b"NATS/1.0\r\nno colon\r\nTrace: 1\r\n\r\n"),
        ("another version", b"NATS/1.1\r\nTrace: 1\r\n\r\n"),
        ("a status that is no number", b"NATS/1.0 abc def\r\nTrace: 1\r\n\r\n"),
        ("the status of a request that found nothing", b"NATS/1.0 404 No Messages\r\n\r\n"),
        ("the status of a heartbeat", b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 9\r\n\r\n"),
        ("the status of a request that ended", b"NATS/1.0 409 Consumer Deleted\r\n\r\n"),
        ("the status of a subject without listeners", b"NATS/1.0 503\r\n\r\n"),
        ("a status in Latin-1", b"NATS/1.0 408 caf\xe9\r\n\r\n"),
        ("a carriage return in a value", b"NATS/1.0\r\nPlace: a\rb\r\n\r\n"),
        ("a zero byte in a name", b"NATS/1.0\r\nA\0: b\0\r\n\r\n"),
        ("a continuation of nothing", b"NATS/1.0\r\n more\r\nTrace: 1\r\n\r\n"),
        ("line feeds alone", b"NATS/1.0\nTrace 1\n\n"),
        ("no line at all", b"garbage"),
        ("one byte", b"x"),
        ("an end alone", b"\r\n"),
        ("no end", b"NATS/1.0\r\nA b"),
    ]
}

/// Whether the block begins with a status, which newer servers take out of what they store.
pub fn has_status(block: &[u8]) -> bool {
    block.starts_with(b"NATS/1.0 ")
}

/// Subjects below `above` that servers take and that are not what one expects.
pub fn odd_subjects(above: &str) -> Vec<Vec<u8>> {
    let ends: [&[u8]; 6] = [b"\xff", b"a\x85", b"\xc2\xa0x", b"\xe3\x80\x80", b"\x0c", b"\x00"];
    ends.iter().map(|end| [above.as_bytes(), b".", end].concat()).collect()
}

/// The client numbers of connections to the server whose monitoring is at `url`, by the beginning of their names.
pub async fn connections(url: &str, name: &str) -> BTreeSet<u64> {
    let (_, body) = super::http_get(url, "/connz", None).await.expect("the monitoring answers");
    let all: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let all = all["connections"].as_array().cloned().unwrap_or_default();
    let named = all.iter().filter(|connection| connection["name"].as_str().is_some_and(|found| found.starts_with(name)));
    named.filter_map(|connection| connection["cid"].as_u64()).collect()
}
