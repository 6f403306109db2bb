//! `sluice send ID FILE|-`: documents from a file into a pipeline's stream, each acknowledged by JetStream.
//!
//! Documents go in the file's order, many at a time, within a bound on what is unacknowledged. Every message carries a
//! `Nats-Msg-Id`, so that a repeated publish after a lost acknowledgement is not stored twice. A document that cannot
//! be read ends the command there: everything before it is sent, nothing after it, and the message says so.

mod documents;
mod exact;

use super::context::Context;
use super::failure::{Exit, Failure};
use crate::pipeline::id::PipelineId;
use crate::pipeline::status::Phase;
use crate::store::Store;
use async_nats::jetstream::Context as JetStream;
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use clap::{Args, ValueEnum};
use documents::{BadDocument, Document, Source};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::future::IntoFuture;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Bounds on what is sent and not acknowledged.
const MAX_UNACKNOWLEDGED: usize = 2000;
const MAX_UNACKNOWLEDGED_BYTES: usize = 32 << 20;
/// How long one acknowledgement may take, and how often a document is sent at all.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
const TRIES: u32 = 5;

#[derive(Debug, Args)]
pub struct SendArgs {
    /// The pipeline
    id: PipelineId,
    /// The file, or `-` for standard input
    #[arg(value_name = "FILE|-")]
    file: String,
    /// What is in the file; `auto`: BSON documents in `*.bson`, else JSON lines (extended JSON, so `{"$date": …}` works)
    #[arg(long, value_enum, default_value = "auto")]
    format: InputFormat,
    /// The top-level field whose value becomes the message id, by which JetStream recognizes a document sent twice
    #[arg(long, value_name = "FIELD")]
    msg_id: Option<String>,
    /// Leave out this many lines (or BSON documents) at the beginning
    #[arg(long, default_value_t = 0, value_name = "N")]
    skip: u64,
}

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InputFormat {
    Auto,
    Jsonl,
    Bson,
}

/// What `--output json` prints.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    id: &'a PipelineId,
    subject: String,
    stream: String,
    /// Documents that JetStream has acknowledged.
    sent: u64,
    /// Those of them that it had already.
    duplicates: u64,
    bytes: u64,
    seconds: f64,
}

struct Acknowledged {
    number: u64,
    bytes: usize,
    result: Result<PublishAck, PublishError>,
}

/// What came of sending.
#[derive(Default)]
struct Tally {
    sent: u64,
    duplicates: u64,
    bytes: u64,
    stream: String,
    /// The first document that was not acknowledged, and why.
    failed: Option<(u64, PublishError)>,
}

impl Tally {
    fn settle(&mut self, done: Acknowledged) {
        match done.result {
            Ok(ack) => {
                self.sent += 1;
                self.duplicates += u64::from(ack.duplicate);
                self.bytes += done.bytes as u64;
                self.stream = ack.stream;
            }
            Err(error) if self.failed.as_ref().is_none_or(|(number, _)| done.number < *number) => self.failed = Some((done.number, error)),
            Err(_) => {}
        }
    }
}

/// `sluice send`.
pub async fn send(context: &Context, args: SendArgs) -> Result<(), Failure> {
    let bson = match args.format {
        InputFormat::Auto => args.file.ends_with(".bson"),
        format => format == InputFormat::Bson,
    };
    let source = Source { name: args.file.clone(), bson, msg_id: args.msg_id.clone(), skip: args.skip };
    let (reader, size) = source.open()?;
    let store = context.connect().await?;
    let subject = context.settings.names().subject(&args.id);
    let jetstream = ContextBuilder::new().timeout(ACK_TIMEOUT).max_ack_inflight(2 * MAX_UNACKNOWLEDGED).build(store.client.clone());
    // Reading and converting happen on a thread of their own, so that both cores have work.
    let (documents, received) = mpsc::channel(256);
    let reading = tokio::task::spawn_blocking(move || source.read(reader, &documents));
    let bar = progress(size);
    let started = Instant::now();
    let (tally, bad) = publish_all(&jetstream, &subject, received, &bar).await;
    // Ends by itself: its channel is closed or its input has ended.
    reading.await.map_err(std::io::Error::other)?;
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    if let Some((number, error)) = &tally.failed {
        return Err(match error.kind() {
            PublishErrorKind::StreamNotFound => nobody_takes(context, &store, &args.id, &subject, *number).await,
            _ => refused(&args, *number, &tally, error),
        });
    }
    if let Some(bad) = bad {
        return Err(stopped_at(&bad, tally.sent));
    }
    let summary = Summary {
        id: &args.id,
        stream: tally.stream,
        sent: tally.sent,
        duplicates: tally.duplicates,
        bytes: tally.bytes,
        seconds,
        subject,
    };
    if context.out.is_json() {
        return context.out.json(&summary);
    }
    let again = match summary.duplicates {
        0 => String::new(),
        many => format!(", {many} of them were there already"),
    };
    let rate = summary.sent as f64 / seconds.max(0.001);
    context.out.line(&format!(
        "{} documents ({} bytes) sent to {} in {seconds:.2} s, {rate:.0}/s{again}",
        summary.sent, summary.bytes, summary.subject
    ))
}

/// Publishes what comes until the end, the first bad document or the first failure; then waits for what is under way.
async fn publish_all(
    jetstream: &JetStream,
    subject: &str,
    mut documents: mpsc::Receiver<Result<Document, BadDocument>>,
    bar: &ProgressBar,
) -> (Tally, Option<BadDocument>) {
    let mut tally = Tally::default();
    let mut unacknowledged = FuturesUnordered::new();
    let mut held = 0;
    let mut bad = None;
    let settle = |tally: &mut Tally, held: &mut usize, done: Acknowledged| {
        *held -= done.bytes;
        tally.settle(done);
    };
    while tally.failed.is_none() {
        let document = match documents.recv().await {
            Some(Ok(document)) => document,
            Some(Err(error)) => {
                bad = Some(error);
                break;
            }
            None => break,
        };
        bar.set_position(document.position);
        held += document.payload.len();
        // Sent here, one after the other, so that the stream has the file's order.
        let first = jetstream.send_publish(subject.to_owned(), message(&document)).await;
        unacknowledged.push(acknowledged(jetstream, subject, document, first));
        while unacknowledged.len() >= MAX_UNACKNOWLEDGED || held >= MAX_UNACKNOWLEDGED_BYTES {
            match unacknowledged.next().await {
                Some(done) => settle(&mut tally, &mut held, done),
                None => break,
            }
        }
        // The very first one tells whether anybody listens, before thousands are sent to nobody.
        let first = tally.sent == 0 && unacknowledged.len() == 1;
        if first && let Some(done) = unacknowledged.next().await {
            settle(&mut tally, &mut held, done);
        }
    }
    drop(documents);
    while let Some(done) = unacknowledged.next().await {
        settle(&mut tally, &mut held, done);
    }
    (tally, bad)
}

fn message(document: &Document) -> PublishMessage {
    PublishMessage::build().payload(document.payload.clone()).message_id(&document.msg_id)
}

/// Waits for the acknowledgement of one document, sending it again under the same id where none comes.
async fn acknowledged(
    jetstream: &JetStream,
    subject: &str,
    document: Document,
    first: Result<PublishAckFuture, PublishError>,
) -> Acknowledged {
    let mut attempt = first;
    let mut tries = 1;
    loop {
        let result = match attempt {
            Ok(ack) => ack.into_future().await,
            Err(error) => Err(error),
        };
        match result {
            Err(error) if tries < TRIES && again(&error) => {
                tokio::time::sleep(Duration::from_millis(100 << tries)).await;
                tries += 1;
                attempt = jetstream.send_publish(subject.to_owned(), message(&document)).await;
            }
            result => return Acknowledged { number: document.number, bytes: document.payload.len(), result },
        }
    }
}

/// Whether sending again can help. That nobody listens can: for a moment after a server's restart nobody does.
fn again(error: &PublishError) -> bool {
    matches!(error.kind(), PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe | PublishErrorKind::StreamNotFound)
}

fn progress(size: Option<u64>) -> ProgressBar {
    // Draws on stderr, and on nothing where that is no terminal.
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn stopped_at(bad: &BadDocument, sent: u64) -> Failure {
    let message = format!(
        "{bad}; the {sent} documents before it were sent, it and everything after it were not (correct it, then go on with --skip {})",
        bad.number - 1
    );
    Failure::new(Exit::Invalid, message)
}

/// No stream listens: why, and what to do about it.
async fn nobody_takes(context: &Context, store: &Store, id: &PipelineId, subject: &str, number: u64) -> Failure {
    // Only for the remedy: what cannot be read now is taken for absent.
    let status = store.status.get(id).await.ok().flatten().map(|record| record.status);
    let published = context.existing(store, id).await.is_ok();
    let why = match &status {
        Some(status) if status.admitted.phase == Phase::Drain => format!(
            "the pipeline is being deleted and its stream is closed (`sluice publish {id}` brings it back; `sluice status {id}` shows what still waits)"
        ),
        Some(_) if published => format!("the pipeline has no stream (`sluice status {id}` shows why)"),
        None if published => "no controller has read its entry yet (is `sluice run` running, with the same namespace and NATS?)".to_owned(),
        _ => format!("publish the pipeline first: `sluice publish {id} -f FILE`, and run `sluice run`"),
    };
    let namespace = &context.settings.namespace;
    let message = format!("no stream takes '{subject}' in namespace '{namespace}', and nothing was sent from document {number} on: {why}");
    Failure::new(Exit::NotFound, message)
}

fn refused(args: &SendArgs, number: u64, tally: &Tally, error: &PublishError) -> Failure {
    let (exit, remedy) = match error.kind() {
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => (Exit::Unreachable, "is NATS running?"),
        PublishErrorKind::MaxPayloadExceeded => (Exit::Invalid, "the server's max_payload is smaller than the document"),
        _ => (Exit::Failed, "look at the stream's limits"),
    };
    let source = std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"));
    let message = format!(
        "{}: document {number} was not acknowledged: {error}{source} ({remedy}); {} documents were sent (go on with --skip {}, and with --msg-id so that none is stored twice)",
        args.file,
        tally.sent,
        number - 1
    );
    Failure::new(exit, message)
}
