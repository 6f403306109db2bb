//! A proxy in front of a database that reads the names of the commands that pass, `insert readings`, and can put another version
//! into what the server says of itself.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
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
    commands: Arc<Mutex<BTreeMap<String, u64>>>,
    task: JoinHandle<()>,
}

impl Commands {
    /// Starts one in front of `127.0.0.1:port`. `version`: what to put in the place of what, of the same length.
    pub async fn start(port: u16, version: Option<(String, String)>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", super::free_port())).await.expect("a port for the proxy");
        let address = listener.local_addr().expect("a bound address");
        let commands = Arc::new(Mutex::default());
        let task = tokio::spawn(accept(listener, port, Arc::clone(&commands), version));
        Self { address, commands, task }
    }

    /// Its connection string.
    pub fn url(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address)
    }

    /// How often each command passed, by its name and what it is about.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.commands.lock().expect("no panic").clone()
    }

    /// How often `command` passed.
    pub fn count(&self, command: &str) -> u64 {
        self.counts().get(command).copied().unwrap_or(0)
    }

    /// Counts anew.
    pub fn forget(&self) {
        self.commands.lock().expect("no panic").clear();
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, commands: Arc<Mutex<BTreeMap<String, u64>>>, version: Option<(String, String)>) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
        let commands = commands.clone();
        tokio::spawn(pass(client_in, server_out, move |message| {
            if let Some(name) = command(message) {
                *commands.lock().expect("no panic").entry(name).or_default() += 1;
            }
        }));
        let version = version.clone();
        tokio::spawn(pass(server_in, client_out, move |message| {
            let Some((is, shown)) = &version else { return };
            for at in 0..message.len().saturating_sub(is.len()) {
                if message[at..].starts_with(is.as_bytes()) {
                    message[at..at + is.len()].copy_from_slice(shown.as_bytes());
                }
            }
        }));
    }
}

/// Passes whole messages on, each by way of `look`.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, look: impl Fn(&mut [u8])) {
    loop {
        let mut length = [0; 4];
        if from.read_exact(&mut length).await.is_err() {
            return;
        }
        let mut message = length.to_vec();
        message.resize(usize::try_from(i32::from_le_bytes(length)).unwrap_or(16).max(16), 0);
        if from.read_exact(&mut message[4..]).await.is_err() {
            return;
        }
        look(&mut message);
        if to.write_all(&message).await.is_err() {
            return;
        }
    }
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
