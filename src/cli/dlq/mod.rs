//! `sluice dlq`: dead letters with their reasons, listed and shown, sent into their pipeline once more, or dropped.
//!
//! JSON of `list` without an id: `[{id, dead_letters}]`; with one: `[{sequence, identity, time, headers, bytes}]`, the
//! newest last; of `show`: the same object with `document` (extended JSON) or, where it is no BSON, `payload_base64`; of
//! `replay` and `drop`: see [`act`].

mod act;
mod letters;
mod replay;
mod select;

use super::context::Context;
use super::facts::dead_letters;
use super::failure::{Exit, Failure};
use super::output::{Output, Tone};
use crate::pipeline::id::PipelineId;
use crate::store::Store;
use async_nats::jetstream::message::StreamMessage;
use base64::Engine;
use clap::{Args, Subcommand};
use letters::{Letter, Letters, object_of, payload};
use select::{LetterName, Selection};
use serde::Serialize;
use std::collections::VecDeque;

#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// Count dead letters by pipeline, or list those of one
    List(ListArgs),
    /// Show one dead letter: its headers and its document
    Show(ShowArgs),
    /// Send dead letters into their pipeline's stream once more, and remove each once the stream has acknowledged it
    ///
    /// Doing it twice, or again after it was interrupted, stores no document twice in a normal collection: a document
    /// keeps the identity of the message that it came from. What is refused again becomes a dead letter again.
    Replay(act::ReplayArgs),
    /// Remove dead letters for good
    Drop(act::DropArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// The pipeline; without it, the number of dead letters of each
    id: Option<PipelineId>,
    /// Show the newest N
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: u64,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The pipeline
    id: PipelineId,
    /// Its sequence in the stream of the dead letters, or its identity; both are in `sluice dlq list ID`
    #[arg(value_name = "SEQ|IDENTITY")]
    letter: LetterName,
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
        DlqCommand::List(ListArgs { id: Some(id), limit, selection }) => {
            list(context, &store, &id, usize::try_from(limit).unwrap_or(usize::MAX), &selection).await
        }
        DlqCommand::Show(args) => show(context, &store, &args).await,
        DlqCommand::Replay(args) => act::replay(context, &store, args).await,
        DlqCommand::Drop(args) => act::drop(context, &store, args).await,
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

async fn list(context: &Context, store: &Store, id: &PipelineId, limit: usize, selection: &Selection) -> Result<(), Failure> {
    let mut newest = VecDeque::new();
    if let Some(letters) = Letters::open(context, store, context.settings.names().dead_letter_prefix(id)).await? {
        let keep = |letter| {
            if selection.takes(&letter) {
                newest.push_back(letter);
                if newest.len() > limit {
                    newest.pop_front();
                }
            }
        };
        letters.each(keep).await?;
    }
    if context.out.is_json() {
        return context.out.json(&newest);
    }
    if newest.is_empty() {
        let which = if selection.is_everything() { "" } else { " that these filters take" };
        context.out.note(&format!("no dead letters of pipeline '{id}'{which}"));
        return Ok(());
    }
    table(&context.out, newest.iter())
}

/// Dead letters as a table.
fn table<'a>(out: &Output, letters: impl Iterator<Item = &'a Letter>) -> Result<(), Failure> {
    let row = |letter: &Letter| {
        let header = |name: &str| letter.header(name).unwrap_or_default().to_owned();
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
    };
    let header = ["seq", "time", "reason", "code", "version", "message", "bytes", "identity", "detail"];
    out.table(&header, letters.map(row).collect())
}

async fn show(context: &Context, store: &Store, args: &ShowArgs) -> Result<(), Failure> {
    let missing = || {
        let letter = match &args.letter {
            LetterName::Sequence(sequence) => sequence.to_string(),
            LetterName::Identity(identity) => identity.clone(),
        };
        let message = format!("pipeline '{}' has no dead letter '{letter}' (`sluice dlq list {}` shows them)", args.id, args.id);
        Failure::new(Exit::NotFound, message)
    };
    let letters = Letters::open(context, store, context.settings.names().dead_letter_prefix(&args.id)).await?.ok_or_else(missing)?;
    let mut message = letters.find(&args.letter).await?.ok_or_else(missing)?;
    if object_of(&message)?.is_some() {
        message.payload = payload(store, &message).await?;
    }
    let mut letter = letters.letter(&message);
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
    let line = |label: &str, text: &str| out.parts(&[(&format!("{label:<20}"), Tone::Faint), (" ", Tone::Plain), (text, Tone::Plain)]);
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
            out.line(&format!("(no BSON) {text}"))
        }
    }
}
