//! A proxy in front of a database that reads the names of the commands that pass, `insert readings`, can put another version
//! into what the server says of itself, and can refuse commands for what is in them.

use mongodb::bson::doc;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

/// The wire protocol's message with a command in it.
const OP_MSG: i32 = 2013;

/// The proxy; gone when dropped.
pub struct Commands {
    address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    commands: Mutex<BTreeMap<String, u64>>,
    refused: AtomicU64,
    /// What to put in the place of what, of the same length.
    version: Option<(String, String)>,
    /// Commands that hold these bytes are answered with this code, and the server never sees them.
    refuses: Option<(Vec<u8>, i32)>,
}

impl Commands {
    /// Starts one in front of `127.0.0.1:port`. `version`: what to put in the place of what, of the same length.
    pub async fn start(port: u16, version: Option<(String, String)>) -> Self {
        Self::build(port, Seen { version, ..Seen::default() }).await
    }

    /// Starts one that refuses whole commands, with a code, for the sake of some bytes in them.
    pub async fn start_refusing(port: u16, bytes: Vec<u8>, code: i32) -> Self {
        Self::build(port, Seen { refuses: Some((bytes, code)), ..Seen::default() }).await
    }

    async fn build(port: u16, seen: Seen) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", super::free_port())).await.expect("a port for the proxy");
        let address = listener.local_addr().expect("a bound address");
        let seen = Arc::new(seen);
        let task = tokio::spawn(accept(listener, port, Arc::clone(&seen)));
        Self { address, seen, task }
    }

    /// How many commands were refused.
    pub fn refused(&self) -> u64 {
        self.seen.refused.load(Ordering::Relaxed)
    }

    /// Its connection string.
    pub fn url(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address)
    }

    /// How often each command passed, by its name and what it is about.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.seen.commands.lock().expect("no panic").clone()
    }

    /// How often `command` passed.
    pub fn count(&self, command: &str) -> u64 {
        self.counts().get(command).copied().unwrap_or(0)
    }

    /// Counts anew.
    pub fn forget(&self) {
        self.seen.commands.lock().expect("no panic").clear();
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, seen: Arc<Seen>) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
        let client_out = Arc::new(tokio::sync::Mutex::new(client_out));
        let server_out = Arc::new(tokio::sync::Mutex::new(server_out));
        let of = seen.clone();
        tokio::spawn(pass(client_in, server_out, client_out.clone(), move |message| {
            if let Some(name) = command(message) {
                *of.commands.lock().expect("no panic").entry(name).or_default() += 1;
            }
            let (bytes, code) = of.refuses.as_ref()?;
            let found = message.windows(bytes.len()).any(|part| part == bytes);
            found.then(|| {
                of.refused.fetch_add(1, Ordering::Relaxed);
                refusal(message, *code)
            })
        }));
        let of = seen.clone();
        tokio::spawn(pass(server_in, client_out.clone(), client_out, move |message| {
            if let Some((is, shown)) = &of.version {
                for at in 0..message.len().saturating_sub(is.len()) {
                    if message[at..].starts_with(is.as_bytes()) {
                        message[at..at + is.len()].copy_from_slice(shown.as_bytes());
                    }
                }
            }
            None
        }));
    }
}

type Out = Arc<tokio::sync::Mutex<OwnedWriteHalf>>;

/// Passes whole messages on, each by way of `look`; what that makes of one goes to `back` in its place.
async fn pass(mut from: OwnedReadHalf, to: Out, back: Out, look: impl Fn(&mut [u8]) -> Option<Vec<u8>>) {
    loop {
        let mut length = [0; 4];
        if from.read_exact(&mut length).await.is_err() {
            break;
        }
        let mut message = length.to_vec();
        message.resize(usize::try_from(i32::from_le_bytes(length)).unwrap_or(16).max(16), 0);
        if from.read_exact(&mut message[4..]).await.is_err() {
            break;
        }
        let written = match look(&mut message) {
            Some(answer) => back.lock().await.write_all(&answer).await,
            None => to.lock().await.write_all(&message).await,
        };
        if written.is_err() {
            break;
        }
    }
    // Who reads at the other end learns of it, although another task can still write there.
    let _ = to.lock().await.shutdown().await;
}

/// The answer to a command that is refused as a whole.
fn refusal(message: &[u8], code: i32) -> Vec<u8> {
    let refusal = doc! {"ok": 0.0, "errmsg": "the proxy refuses this", "code": code, "codeName": "Curious"};
    let body = refusal.to_vec().expect("BSON");
    let length = i32::try_from(16 + 4 + 1 + body.len()).expect("small");
    let mut answer = length.to_le_bytes().to_vec();
    answer.extend(1_i32.to_le_bytes());
    answer.extend(&message[4..8]);
    answer.extend(OP_MSG.to_le_bytes());
    answer.extend([0; 5]);
    answer.extend(body);
    answer
}

/// The first field of the message's document, with its value where that is a text.
fn command(message: &[u8]) -> Option<String> {
    let code = i32::from_le_bytes(message.get(12..16)?.try_into().ok()?);
    // Header, flags, kind of the section, length of the document.
    let (kind, rest) = message.get(16 + 4 + 1 + 4..)?.split_first()?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(rest.get(..end)?).ok().filter(|_| code == OP_MSG)?;
    let value = rest.get(end + 1 + 4..).filter(|_| *kind == 2).and_then(|value| {
        let end = value.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&value[..end]).ok()
    });
    Some(value.map_or_else(|| name.to_owned(), |value| format!("{name} {value}")))
}
