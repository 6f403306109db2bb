//! The bare loop: what moving documents costs where nothing is promised. One pull of four batches with the next one
//! requested at half, two unordered inserts in flight, acknowledgements written together and flushed once a batch.
//!
//! No lease, no identity, no error handling but to end: an error ends the process, and the benchmark with it.

use super::stream::CONSUMER;
use anyhow::{Context, Result};
use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use mongodb::{
    Collection,
    bson::{RawDocumentBuf, oid::ObjectId},
    options::{Acknowledgment, WriteConcern},
};
use std::{collections::VecDeque, env};
use tokio::task::JoinHandle;

/// The environment variable that makes this program a bare loop, and which.
pub const WAY: &str = "SLUICE_BENCH_BARE";
/// The way of the driver's own `insert_many`.
pub const INSERT_MANY: &str = "insert_many";
/// The way of one hand-built command a batch.
pub const COMMAND: &str = "command";

const BATCH: usize = 1000;
const PULL: usize = 4 * BATCH;
const IN_FLIGHT: usize = 2;

/// Drains the stream, then waits to be ended, so that /proc can still be asked about it.
pub async fn run(way: &str) -> Result<()> {
    let variable = |name: &str| env::var(name).with_context(|| name.to_owned());
    let nats = async_nats::connect(variable("NATS_URL")?).await?;
    let sink = Sink::connect(way, &variable("MONGO_URL")?, &variable("DATABASE")?, &variable("COLLECTION")?).await?;
    let source = Source::open(nats.clone(), &variable("STREAM")?).await?;
    drain(nats, source, sink, variable("COUNT")?.parse()?).await?;
    std::future::pending().await
}

async fn drain(nats: Client, mut source: Source, sink: Sink, count: usize) -> Result<()> {
    let mut inserts: VecDeque<JoinHandle<Result<()>>> = VecDeque::new();
    let mut received = 0;
    while received < count {
        let batch = source.batch(BATCH.min(count - received)).await?;
        received += batch.len();
        if inserts.len() == IN_FLIGHT
            && let Some(oldest) = inserts.pop_front()
        {
            oldest.await??;
        }
        let (nats, sink) = (nats.clone(), sink.clone());
        inserts.push_back(tokio::spawn(async move {
            sink.insert(&batch).await?;
            for message in batch {
                nats.publish(message.reply.context("a message without an ack subject")?, "+ACK".into()).await?;
            }
            Ok(nats.flush().await?)
        }));
    }
    for insert in inserts {
        insert.await??;
    }
    Ok(())
}

/// Pull requests on one inbox.
struct Source {
    nats: Client,
    subject: String,
    inbox: String,
    messages: Subscriber,
    outstanding: usize,
}

impl Source {
    async fn open(nats: Client, stream: &str) -> Result<Self> {
        let inbox = nats.new_inbox();
        let messages = nats.subscribe(inbox.clone()).await?;
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{CONSUMER}");
        let mut source = Self { nats, subject, inbox, messages, outstanding: 0 };
        source.pull().await?;
        Ok(source)
    }

    async fn pull(&mut self) -> Result<()> {
        let request = format!(r#"{{"batch":{PULL},"expires":30000000000}}"#);
        self.nats.publish_with_reply(self.subject.clone(), self.inbox.clone(), request.into()).await?;
        self.outstanding += PULL;
        Ok(())
    }

    async fn batch(&mut self, count: usize) -> Result<Vec<Message>> {
        let mut batch = Vec::with_capacity(count);
        while batch.len() < count {
            let message = self.messages.next().await.context("the subscription ended")?;
            anyhow::ensure!(message.status.is_none(), "the pull ended: {:?} {:?}", message.status, message.description);
            batch.push(message);
            self.outstanding -= 1;
            if self.outstanding <= PULL / 2 {
                self.pull().await?;
            }
        }
        Ok(batch)
    }
}

/// MongoDB in one of both ways.
#[derive(Clone)]
struct Sink {
    collection: Collection<RawDocumentBuf>,
    database: mongodb::Database,
    by_command: bool,
}

impl Sink {
    async fn connect(way: &str, url: &str, database: &str, collection: &str) -> Result<Self> {
        let database = mongodb::Client::with_uri_str(url).await?.database(database);
        anyhow::ensure!(way == COMMAND || way == INSERT_MANY, "no such way of inserting: {way}");
        Ok(Self { collection: database.collection(collection), database, by_command: way == COMMAND })
    }

    async fn insert(&self, batch: &[Message]) -> Result<()> {
        if self.by_command {
            let reply = self.database.run_raw_command(command(self.collection.name(), batch)?).await?;
            anyhow::ensure!(reply.get_i32("n").ok() == i32::try_from(batch.len()).ok() && !reply.contains_key("writeErrors"), "{reply}");
            return Ok(());
        }
        let documents = batch.iter().map(|m| RawDocumentBuf::from_bytes(m.payload.to_vec())).collect::<Result<Vec<_>, _>>()?;
        let concern = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build();
        self.collection.insert_many(documents).ordered(false).write_concern(concern).await?;
        Ok(())
    }
}

/// One insert command: the payloads as they came, each behind a new `_id`, as `insert_many` does it too.
fn command(collection: &str, batch: &[Message]) -> Result<RawDocumentBuf> {
    let bytes: usize = batch.iter().map(|m| m.payload.len() + 17 + 8).sum();
    let mut out = Vec::with_capacity(bytes + 200);
    out.extend([0; 4]);
    string(&mut out, "insert", collection);
    out.extend(b"\x08ordered\0\0");
    out.extend(b"\x03writeConcern\0");
    let start = out.len();
    out.extend([0; 4]);
    string(&mut out, "w", "majority");
    out.extend(b"\x08j\0\x01\0");
    close(&mut out, start)?;
    out.extend(b"\x04documents\0");
    let array = out.len();
    out.extend([0; 4]);
    for (index, message) in batch.iter().enumerate() {
        out.push(3);
        out.extend(index.to_string().as_bytes());
        out.push(0);
        out.extend(i32::try_from(message.payload.len() + 17)?.to_le_bytes());
        out.extend(b"\x07_id\0");
        out.extend(ObjectId::new().bytes());
        out.extend(message.payload.get(4..).context("no BSON")?);
    }
    out.push(0);
    close(&mut out, array)?;
    out.push(0);
    close(&mut out, 0)?;
    Ok(RawDocumentBuf::from_bytes(out)?)
}

fn string(out: &mut Vec<u8>, key: &str, value: &str) {
    out.push(2);
    out.extend(key.as_bytes());
    out.push(0);
    out.extend((value.len() as u32 + 1).to_le_bytes());
    out.extend(value.as_bytes());
    out.push(0);
}

fn close(out: &mut [u8], start: usize) -> Result<()> {
    let length = i32::try_from(out.len() - start)?.to_le_bytes();
    out.get_mut(start..start + 4).context("opened before")?.copy_from_slice(&length);
    Ok(())
}
