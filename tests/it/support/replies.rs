//! A proxy that has a real database answer as another server does: replies are rewritten by rules, which are data
//! (`tests/fixtures/replies`). What a rule refuses never reaches the database, so that what is stored agrees with what was said.

use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// The wire protocol's message with a command in it.
const OP_MSG: i32 = 2013;
/// The document that goes in front of measurements: a real series refuses it, and so it is never refused here.
const SENTINEL: &str = "sluice: no time-series collection";
/// Documents that a rule means have this field.
pub const MARK: &str = "bad";

/// What becomes of a reply.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which reply: the name of the command, `insert`.
    pub command: String,
    /// What the command is about, where that is not the test's own collection: `collections`.
    #[serde(default)]
    pub about: Option<String>,
    /// Only so many times; then the next rule that fits.
    #[serde(default)]
    pub times: Option<u64>,
    /// The command is refused, carried out without its write concern being met, or documents of it are refused.
    #[serde(default)]
    pub refuses: Option<Refuses>,
    /// Which documents.
    #[serde(default)]
    pub which: Which,
    #[serde(default)]
    pub code: i32,
    #[serde(default)]
    pub code_name: String,
    #[serde(default)]
    pub message: String,
    /// Fields of the refusal of a document: `keyPattern`.
    #[serde(default)]
    pub with: Document,
    /// Whether the database gets what is said to be stored; not, where that is lost by a rollback afterwards.
    #[serde(default = "yes")]
    pub stores: bool,
    /// The whole answer; the database is not asked.
    #[serde(default)]
    pub answer: Option<Document>,
    /// Fields of the database's own answer.
    #[serde(default)]
    pub set: Document,
    #[serde(default)]
    pub unset: Vec<String>,
}

/// What is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refuses {
    Command,
    Concern,
    Documents,
}

/// Which documents of a command are refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// Those with [`MARK`].
    #[default]
    Marked,
    /// All.
    All,
    /// All, where one with [`MARK`] is among them: they share a bucket.
    Bucket,
    /// All, unless there is one alone.
    Company,
}

fn yes() -> bool {
    true
}

#[derive(Default)]
struct State {
    rules: Vec<(Rule, u64)>,
    on: bool,
    /// Replies that were rewritten, but for those that only describe the server.
    refused: u64,
    /// Inserts into the collection, and those that began with the sentinel.
    inserts: (u64, u64),
}

/// The proxy; gone when dropped.
pub struct Replies {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Replies {
    /// Starts one in front of the server at `server`; rules apply to `collection`.
    pub async fn start(server: SocketAddr, collection: &str, rules: Vec<Rule>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port for the proxy");
        let address = listener.local_addr().expect("a bound address");
        let rules = rules.into_iter().map(|rule| (rule, 0)).collect();
        let state = Arc::new(Mutex::new(State { rules, on: true, ..State::default() }));
        let task = tokio::spawn(accept(listener, server, collection.to_owned(), state.clone()));
        Self { address, state, task }
    }

    /// Its connection string.
    pub fn url(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address)
    }

    /// Whether refusals are rewritten in; what the server says of itself always is.
    pub fn set(&self, on: bool) {
        self.state.lock().expect("no panic").on = on;
    }

    /// How many commands were refused, as a whole or in part.
    pub fn refused(&self) -> u64 {
        self.state.lock().expect("no panic").refused
    }

    /// Inserts so far, and how many of them began with the document that only a normal collection takes.
    pub fn inserts(&self) -> (u64, u64) {
        self.state.lock().expect("no panic").inserts
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, collection: String, state: Arc<Mutex<State>>) {
    let mut served = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(server).await else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        served.spawn(serve(client, server, collection.clone(), state.clone()));
    }
}

/// Answers come in the order of the questions, one at a time on each connection.
async fn serve(mut client: TcpStream, mut server: TcpStream, collection: String, state: Arc<Mutex<State>>) -> Option<()> {
    loop {
        let question = read(&mut client).await?;
        let plan = body(&question).and_then(|body| state.lock().expect("no panic").plan(&body, &collection));
        let Some(Plan { forward, edit }) = plan else {
            server.write_all(&question).await.ok()?;
            let answer = read(&mut server).await?;
            client.write_all(&answer).await.ok()?;
            continue;
        };
        let answer = match forward {
            None => doc! {"n": 0, "ok": 1.0},
            Some(forward) => {
                server.write_all(&message(&forward, 0, id_of(&question))).await.ok()?;
                body(&read(&mut server).await?)?
            }
        };
        client.write_all(&message(&edit.of(answer), id_of(&question), 1)).await.ok()?;
    }
}

async fn read(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await.ok()?;
    let mut message = length.to_vec();
    message.resize(usize::try_from(i32::from_le_bytes(length)).ok()?.max(16), 0);
    from.read_exact(&mut message[4..]).await.ok()?;
    Some(message)
}

fn id_of(message: &[u8]) -> i32 {
    i32::from_le_bytes(message[4..8].try_into().expect("four bytes"))
}

/// The command of a message, where it has one section.
fn body(message: &[u8]) -> Option<Document> {
    let code = i32::from_le_bytes(message.get(12..16)?.try_into().ok()?);
    (code == OP_MSG && *message.get(20)? == 0).then(|| Document::from_reader(&message[21..]).ok())?
}

fn message(body: &Document, answers: i32, id: i32) -> Vec<u8> {
    let body = body.to_vec().expect("BSON");
    let mut message = i32::try_from(21 + body.len()).expect("small").to_le_bytes().to_vec();
    [id, answers, OP_MSG, 0].iter().for_each(|number| message.extend(number.to_le_bytes()));
    message.push(0);
    message.extend(body);
    message
}

/// What the database is asked instead, if anything, and what its answer becomes.
struct Plan {
    forward: Option<Document>,
    edit: Edit,
}

enum Edit {
    Instead(Document),
    Fields(Document, Vec<String>),
    /// Indexes of what was forwarded, what was refused, and how many are said to be stored without having been sent.
    Documents {
        sent: Vec<usize>,
        refused: Vec<Document>,
        pretended: usize,
    },
}

impl State {
    fn plan(&mut self, body: &Document, collection: &str) -> Option<Plan> {
        let (command, about) = body.iter().next()?;
        let ours = about.as_str() == Some(collection);
        if command == "insert" && ours {
            self.inserts.0 += 1;
            self.inserts.1 += u64::from(documents(body).first().is_some_and(|first| is_sentinel(first)));
        }
        let fits = |(rule, used): &&mut (Rule, u64)| {
            let about = rule.about.as_ref().map_or(ours || about.as_str().is_none(), |wanted| about.as_str() == Some(wanted));
            rule.command == *command && about && rule.times.is_none_or(|times| *used < times) && (self.on || rule.refuses.is_none())
        };
        let (rule, used) = self.rules.iter_mut().find(fits)?;
        let plan = rule.plan(body)?;
        *used += 1;
        self.refused += u64::from(rule.refuses.is_some());
        Some(plan)
    }
}

impl Rule {
    /// One that refuses.
    pub fn of(command: &str, refuses: Refuses, which: Which) -> Self {
        let (code, code_name, message) = (0, String::new(), String::new());
        let (command, with, set, unset) = (command.to_owned(), Document::new(), Document::new(), Vec::new());
        let refuses = Some(refuses);
        Self { command, about: None, times: None, refuses, which, code, code_name, message, with, stores: true, answer: None, set, unset }
    }

    fn plan(&self, body: &Document) -> Option<Plan> {
        let error = doc! {"code": self.code, "codeName": &self.code_name, "errmsg": &self.message};
        if let Some(answer) = &self.answer {
            return Some(Plan { forward: None, edit: Edit::Instead(answer.clone()) });
        }
        match self.refuses {
            None => Some(Plan { forward: Some(body.clone()), edit: Edit::Fields(self.set.clone(), self.unset.clone()) }),
            Some(Refuses::Command) => {
                let mut answer = doc! {"ok": 0.0};
                answer.extend(error);
                Some(Plan { forward: None, edit: Edit::Instead(answer) })
            }
            Some(Refuses::Concern) if self.stores => {
                let set = doc! {"writeConcernError": error};
                Some(Plan { forward: Some(body.clone()), edit: Edit::Fields(set, Vec::new()) })
            }
            Some(Refuses::Concern) => {
                let n = i32::try_from(documents(body).len()).expect("few");
                Some(Plan { forward: None, edit: Edit::Instead(doc! {"n": n, "writeConcernError": error, "ok": 1.0}) })
            }
            Some(Refuses::Documents) => self.refuse(body, &error),
        }
    }

    fn refuse(&self, body: &Document, error: &Document) -> Option<Plan> {
        let all = documents(body);
        let of_users = all.iter().filter(|document| !is_sentinel(document)).count();
        let marked = |document: &Document| document.get_bool(MARK).unwrap_or(false);
        let one_is = all.iter().any(|document| marked(document));
        let hit = |document: &Document| {
            !is_sentinel(document)
                && match self.which {
                    Which::Marked => marked(document),
                    Which::All => true,
                    Which::Bucket => one_is,
                    Which::Company => of_users > 1,
                }
        };
        let (refused, sent): (Vec<usize>, Vec<usize>) = (0..all.len()).partition(|index| hit(all[*index]));
        if refused.is_empty() {
            return None;
        }
        let entry = |index: &usize| {
            let mut entry = doc! {"index": i32::try_from(*index).expect("few")};
            entry.extend(error.clone());
            entry.extend(self.with.clone());
            entry
        };
        let refused = refused.iter().map(entry).collect();
        let (forward, pretended) = match (self.stores, sent.is_empty()) {
            (true, false) => (Some(sent.clone()), 0),
            (_, _) => (None, sent.len()),
        };
        let forward = forward.map(|sent| {
            let mut forward = body.clone();
            forward.insert("documents", sent.iter().map(|index| Bson::from(all[*index].clone())).collect::<Vec<_>>());
            forward
        });
        Some(Plan { forward, edit: Edit::Documents { sent, refused, pretended } })
    }
}

impl Edit {
    fn of(self, mut answer: Document) -> Document {
        match self {
            Self::Instead(answer) => answer,
            Self::Fields(set, unset) => {
                unset.iter().for_each(|field| drop(answer.remove(field)));
                // The answer of a command that failed stays as it is.
                if answer.get_f64("ok").is_ok_and(|ok| ok == 1.0) || answer.get_i32("ok").is_ok_and(|ok| ok == 1) {
                    answer.extend(set);
                }
                answer
            }
            Self::Documents { sent, mut refused, pretended } => {
                for entry in answer.get_array("writeErrors").into_iter().flatten().filter_map(Bson::as_document) {
                    let mut entry = entry.clone();
                    let index = usize::try_from(entry.get_i32("index").expect("an index")).expect("positive");
                    entry.insert("index", i32::try_from(sent[index]).expect("few"));
                    refused.push(entry);
                }
                let stored = answer.get("n").and_then(|n| n.as_i32().or(n.as_i64().and_then(|n| n.try_into().ok()))).unwrap_or(0);
                answer.insert("n", stored + i32::try_from(pretended).expect("few"));
                answer.insert("writeErrors", refused.into_iter().map(Bson::from).collect::<Vec<_>>());
                answer
            }
        }
    }
}

fn documents(body: &Document) -> Vec<&Document> {
    body.get_array("documents").into_iter().flatten().filter_map(Bson::as_document).collect()
}

fn is_sentinel(document: &Document) -> bool {
    document.get_str("_id").is_ok_and(|id| id == SENTINEL)
}
