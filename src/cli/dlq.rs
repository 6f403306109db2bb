//! `sluice dlq list [ID]` and `sluice dlq show ID SEQ|IDENTITY`: dead letters with their reasons. Only reads.
//!
//! JSON of `list` without an id: `[{id, dead_letters}]`; with one: `[{sequence, identity, time, headers, bytes}]`, the
//! newest last; of `show`: the same object with `document` (extended JSON) or, where it is no BSON, `payload_base64`.

use super::context::Context;
use super::facts::{dead_letters, failed, stream_info};
use super::failure::{Exit, Failure};
use super::output::{Tone, clean};
use crate::pipeline::id::PipelineId;
use crate::store::Store;
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self};
use base64::Engine;
use clap::{Args, Subcommand};
use futures_util::StreamExt;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// Count dead letters by pipeline, or list those of one
    List(ListArgs),
    /// Show one dead letter: its headers and its document
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// The pipeline; without it, the number of dead letters of each
    id: Option<PipelineId>,
    /// Show the newest N
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: u64,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The pipeline
    id: PipelineId,
    /// Its sequence in the stream of the dead letters, or its identity; both are in `sluice dlq list ID`
    #[arg(value_name = "SEQ|IDENTITY")]
    letter: String,
}

#[derive(Debug, Serialize)]
struct Letter {
    sequence: u64,
    identity: String,
    /// When it became a dead letter.
    time: Option<Timestamp>,
    headers: BTreeMap<String, String>,
    /// Size of the payload.
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

#[derive(Debug, Serialize)]
struct Count {
    id: String,
    dead_letters: u64,
}

/// `sluice dlq`.
pub async fn dlq(context: &Context, command: DlqCommand) -> Result<(), Failure> {
    let store = context.connect().await?;
    match command {
        DlqCommand::List(ListArgs { id: None, .. }) => counts(context, &store).await,
        DlqCommand::List(ListArgs { id: Some(id), limit }) => list(context, &store, &id, limit as usize).await,
        DlqCommand::Show(args) => show(context, &store, &args).await,
    }
}

async fn counts(context: &Context, store: &Store) -> Result<(), Failure> {
    let mut counts: Vec<Count> =
        dead_letters(context, store, None).await?.into_iter().map(|(id, dead_letters)| Count { id, dead_letters }).collect();
    counts.sort_by(|a, b| a.id.cmp(&b.id));
    if context.out.is_json() {
        return context.out.json(&counts);
    }
    if counts.is_empty() {
        context.out.note("no dead letters");
        return Ok(());
    }
    let rows = counts.into_iter().map(|count| vec![(count.id, Tone::Plain), (count.dead_letters.to_string(), Tone::Bad)]);
    context.out.table(&["id", "dead letters"], rows.collect())
}

async fn list(context: &Context, store: &Store, id: &PipelineId, limit: usize) -> Result<(), Failure> {
    let prefix = context.settings.names().dead_letter_prefix(id);
    let letters = match stream(context, store).await? {
        Some(stream) => newest(&stream, &prefix, limit).await?,
        None => VecDeque::new(),
    };
    if context.out.is_json() {
        return context.out.json(&letters);
    }
    if letters.is_empty() {
        context.out.note(&format!("no dead letters of pipeline '{id}'"));
        return Ok(());
    }
    let rows = letters.iter().map(|letter| {
        let header = |name: &str| letter.headers.get(name).cloned().unwrap_or_default();
        vec![
            (letter.sequence.to_string(), Tone::Plain),
            (letter.time.map_or(String::new(), |time| time.strftime("%F %TZ").to_string()), Tone::Plain),
            (header("Sluice-Reason"), Tone::Bad),
            (header("Sluice-Code"), Tone::Plain),
            (header("Sluice-Version"), Tone::Plain),
            (header("Sluice-Sequence"), Tone::Plain),
            (letter.bytes.to_string(), Tone::Plain),
            (letter.identity.clone(), Tone::Plain),
            (header("Sluice-Detail"), Tone::Faint),
        ]
    });
    context.out.table(&["seq", "time", "reason", "code", "version", "message", "bytes", "identity", "detail"], rows.collect())
}

/// The newest `limit` dead letters, without their payloads: one short-lived consumer that reads headers only.
async fn newest(stream: &Stream<()>, prefix: &str, limit: usize) -> Result<VecDeque<Letter>, Failure> {
    let doing = "read the dead letters";
    let config = pull::Config {
        filter_subject: format!("{prefix}.>"),
        headers_only: true,
        ack_policy: AckPolicy::None,
        inactive_threshold: Duration::from_secs(30),
        memory_storage: true,
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(|error| failed(doing, &error))?;
    let mut left = consumer.cached_info().num_pending;
    let mut letters = VecDeque::new();
    while left > 0 {
        let mut batch = consumer.fetch().max_messages(500).messages().await.map_err(|error| failed(doing, &error))?;
        let before = left;
        while let Some(message) = batch.next().await {
            let message = message.map_err(|error| failed(doing, &error))?;
            let info = message.info().map_err(|error| failed(doing, &error))?;
            left = info.pending;
            let empty = HeaderMap::new();
            let headers = message.headers.as_ref().unwrap_or(&empty);
            let time = Timestamp::from_nanosecond(info.published.unix_timestamp_nanos()).ok();
            letters.push_back(letter(prefix, &message.subject, info.stream_sequence, time, headers));
            if letters.len() > limit {
                letters.pop_front();
            }
        }
        if left == before {
            break; // Removed meanwhile: what was counted does not come any more.
        }
    }
    // It would also go by itself after its inactivity threshold.
    let _ = stream.delete_consumer(&consumer.cached_info().name).await;
    Ok(letters)
}

fn letter(prefix: &str, subject: &str, sequence: u64, time: Option<Timestamp>, headers: &HeaderMap) -> Letter {
    let mut headers: BTreeMap<String, String> = headers
        .iter()
        .map(|(name, values)| (name.to_string(), values.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(", ")))
        .collect();
    let bytes = headers.remove("Nats-Msg-Size").and_then(|size| size.parse().ok()).unwrap_or(0);
    let identity = subject.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')).unwrap_or(subject).to_owned();
    Letter { sequence, identity, time, headers, bytes, document: None, payload_base64: None }
}

async fn show(context: &Context, store: &Store, args: &ShowArgs) -> Result<(), Failure> {
    let prefix = context.settings.names().dead_letter_prefix(&args.id);
    let missing = || {
        let message = format!("pipeline '{}' has no dead letter '{}' (`sluice dlq list {}` shows them)", args.id, args.letter, args.id);
        Failure::new(Exit::NotFound, message)
    };
    let Some(stream) = stream(context, store).await? else { return Err(missing()) };
    let message = find(&stream, &prefix, &args.letter).await?.filter(|message| message.subject.starts_with(&format!("{prefix}.")));
    let message = message.ok_or_else(missing)?;
    let time = Timestamp::from_nanosecond(message.time.unix_timestamp_nanos()).ok();
    let mut letter = letter(&prefix, &message.subject, message.sequence, time, &message.headers);
    letter.bytes = message.payload.len() as u64;
    match bson::Document::from_reader(message.payload.as_ref()) {
        Ok(document) => letter.document = Some(bson::Bson::Document(document).into_relaxed_extjson()),
        Err(_) => letter.payload_base64 = Some(base64::engine::general_purpose::STANDARD.encode(&message.payload)),
    }
    if context.out.is_json() {
        return context.out.json(&letter);
    }
    print_letter(context, &letter, &message)
}

fn print_letter(context: &Context, letter: &Letter, message: &StreamMessage) -> Result<(), Failure> {
    let out = &context.out;
    let line = |label: &str, text: &str| out.line(&format!("{} {}", out.paint(&format!("{label:<20}"), Tone::Faint), clean(text)));
    line("sequence", &letter.sequence.to_string())?;
    line("identity", &letter.identity)?;
    line("time", &letter.time.map_or(String::new(), |time| time.to_string()))?;
    for (name, value) in &letter.headers {
        line(name, value)?;
    }
    line("bytes", &letter.bytes.to_string())?;
    out.line("")?;
    match &letter.document {
        Some(document) => out.json(document),
        None if message.payload.is_empty() => out.line("(no payload)"),
        None => {
            let text: String = String::from_utf8_lossy(&message.payload).chars().take(4000).collect();
            out.line(&format!("(no BSON) {}", clean(&text)))
        }
    }
}

/// By identity where it looks like one (24 hexadecimal digits), else by sequence.
async fn find(stream: &Stream<()>, prefix: &str, letter: &str) -> Result<Option<StreamMessage>, Failure> {
    let is_identity = letter.len() == 24 && letter.bytes().all(|byte| byte.is_ascii_hexdigit());
    let found = match letter.parse::<u64>() {
        Ok(sequence) if !is_identity => stream.get_raw_message(sequence).await,
        _ if is_identity => stream.get_last_raw_message_by_subject(&format!("{prefix}.{letter}")).await,
        _ => {
            let message = format!("'{letter}' is neither a sequence nor an identity (24 hexadecimal digits); `sluice dlq list` shows both");
            return Err(Failure::new(Exit::Usage, message));
        }
    };
    match found {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(failed("read the dead letter", &error)),
    }
}

/// The stream of the dead letters; `None` where it was never needed.
async fn stream(context: &Context, store: &Store) -> Result<Option<Stream<()>>, Failure> {
    let name = context.settings.names().dead_letters();
    if stream_info(store, &name).await?.is_none() {
        return Ok(None);
    }
    let jetstream = jetstream::new(store.client.clone());
    Ok(Some(jetstream.get_stream_no_info(&name).await.map_err(|error| failed("read the dead letters", &error))?))
}
