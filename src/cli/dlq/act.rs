//! `sluice dlq replay` and `sluice dlq drop`: the letters that a selection takes, counted, shown or worked off.
//!
//! The letters are listed once, before the first one is touched: what is refused again while a replay goes on is not
//! replayed again by it. A letter that cannot be worked off stays, is named at the end, and does not hold up the others.
//!
//! `--output json` prints `{id, action, dry_run, matched, done, repeated, gone, failed: [{sequence, identity, error}]}`,
//! with `--dry-run` the `letters` too.

use super::super::context::Context;
use super::super::failure::{Exit, Failure};
use super::super::output::Tone;
use super::letters::{Letter, Letters, payload};
use super::replay::{Done, Replay, Trouble, remove};
use super::select::{LetterName, Selection};
use super::table;
use crate::pipeline::id::PipelineId;
use crate::store::Store;
use async_nats::jetstream::context::ContextBuilder;
use clap::Args;
use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::cell::Cell;
use std::io::IsTerminal;
use std::time::Duration;

/// How long one acknowledgement may take.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Letters at the same time, and how many bytes they may have together.
const AT_ONCE: usize = 32;
const BYTES_AT_ONCE: u64 = 32 << 20;
/// Failures that a person is told of one by one.
const TOLD: usize = 20;

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The pipeline
    id: PipelineId,
    /// Show which would be replayed, and leave them alone
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
pub struct DropArgs {
    /// The pipeline
    id: PipelineId,
    /// Show which would be dropped, and leave them alone
    #[arg(long)]
    dry_run: bool,
    /// Do not ask; without a terminal nobody is asked anyway
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    id: &'a PipelineId,
    action: &'static str,
    dry_run: bool,
    /// Letters that the selection takes.
    matched: usize,
    /// Those that were replayed or dropped.
    done: u64,
    /// Those of them whose message was in the stream already.
    repeated: u64,
    /// Those that somebody else removed meanwhile.
    gone: u64,
    /// Those that stay, and why.
    failed: Vec<Failed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    letters: Option<&'a [Letter]>,
}

#[derive(Debug, Serialize)]
struct Failed {
    sequence: u64,
    identity: String,
    error: String,
}

/// `sluice dlq replay`.
pub async fn replay(context: &Context, store: &Store, args: ReplayArgs) -> Result<(), Failure> {
    let id = &args.id;
    let Some((letters, chosen)) = choose(context, store, id, &args.selection).await? else {
        return nothing(context, id, "replay", args.dry_run);
    };
    if args.dry_run {
        return show(context, id, "replay", &chosen);
    }
    let status = context.status(store, id).await?;
    let stream =
        status.as_ref().and_then(|status| status.kept.stream.clone().or_else(|| Some(status.admitted.spec.as_ref()?.stream.clone())));
    let replay = Replay {
        store,
        jetstream: ContextBuilder::new().timeout(ACK_TIMEOUT).build(store.client.clone()),
        letters: &letters,
        subject: store.names.subject(id),
        stream: stream.unwrap_or_else(|| store.names.stream(id)),
    };
    work(context, store, id, "replay", &chosen, |sequence| replay.one(sequence)).await
}

/// `sluice dlq drop`.
pub async fn drop(context: &Context, store: &Store, args: DropArgs) -> Result<(), Failure> {
    let id = &args.id;
    let Some((letters, chosen)) = choose(context, store, id, &args.selection).await? else {
        return nothing(context, id, "drop", args.dry_run);
    };
    if args.dry_run {
        return show(context, id, "drop", &chosen);
    }
    if !args.yes && context.out.is_terminal() && std::io::stdin().is_terminal() {
        let question = format!("Drop {} of pipeline '{id}' for good?", count(chosen.len()));
        if !context.out.confirm(&question)? {
            return Err(Failure::new(Exit::Failed, "nothing was dropped"));
        }
    }
    let one = async |sequence| {
        let found = letters.find(&LetterName::Sequence(sequence)).await.map_err(Trouble::All)?;
        let Some(letter) = found else { return Ok(Done::Gone) };
        // Only in case that it is needed again; one that cannot be read is dropped all the same.
        let payload = payload(store, &letter).await.ok();
        let removed = remove(store, &letters, &letter, payload.as_ref()).await.map_err(Trouble::All)?;
        Ok(if removed { Done::Yes } else { Done::Gone })
    };
    work(context, store, id, "drop", &chosen, one).await
}

/// The letters that the selection takes, oldest first; `None` where there are none.
async fn choose(
    context: &Context,
    store: &Store,
    id: &PipelineId,
    selection: &Selection,
) -> Result<Option<(Letters, Vec<Letter>)>, Failure> {
    let Some(letters) = Letters::open(context, store, store.names.dead_letter_prefix(id)).await? else { return Ok(None) };
    if letters.info.config.deny_delete {
        let message = format!(
            "stream {} denies deletes, so that no dead letter can leave it; make it anew without deny_delete",
            store.names.dead_letters()
        );
        return Err(Failure::new(Exit::Failed, message));
    }
    let mut chosen = Vec::new();
    letters.each(|letter| chosen.extend(Some(letter).filter(|letter| selection.takes(letter)))).await?;
    Ok((!chosen.is_empty()).then_some((letters, chosen)))
}

/// Works the letters off, many at a time.
async fn work<F>(
    context: &Context,
    store: &Store,
    id: &PipelineId,
    action: &'static str,
    chosen: &[Letter],
    one: impl Fn(u64) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<Done, Trouble>>,
{
    let mut report =
        Report { id, action, dry_run: false, matched: chosen.len(), done: 0, repeated: 0, gone: 0, failed: Vec::new(), letters: None };
    let mut fatal = None;
    let bar = progress(chosen.len());
    // After the first failure that all would share, only what is under way is finished.
    let stop = Cell::new(false);
    let (stop, one) = (&stop, &one);
    let under_way = stream::iter(chosen).take_while(|_| std::future::ready(!stop.get()));
    let under_way = under_way.map(|letter| async move { (letter, one(letter.sequence).await) });
    let mut ended = under_way.buffer_unordered(at_once(chosen, store.client.max_payload()));
    while let Some((letter, result)) = ended.next().await {
        bar.inc(1);
        match result {
            Ok(Done::Yes) => report.done += 1,
            Ok(Done::Repeated) => {
                report.done += 1;
                report.repeated += 1;
            }
            Ok(Done::Gone) => report.gone += 1,
            Err(Trouble::Letter(failure)) => {
                let (sequence, identity, error) = (letter.sequence, letter.identity.clone(), failure.to_string());
                report.failed.push(Failed { sequence, identity, error });
            }
            Err(Trouble::All(failure)) => {
                stop.set(true);
                fatal.get_or_insert(failure);
            }
        }
    }
    bar.finish_and_clear();
    report.failed.sort_by_key(|failed| failed.sequence);
    finish(context, &report, fatal)
}

/// How many letters at the same time, so that their payloads have no more than [`BYTES_AT_ONCE`] together.
fn at_once(chosen: &[Letter], max_payload: usize) -> usize {
    let bytes = |letter: &Letter| if letter.header("Sluice-Object").is_some() { max_payload as u64 } else { letter.bytes };
    let largest = chosen.iter().map(bytes).max().unwrap_or(0).max(1);
    usize::try_from(BYTES_AT_ONCE / largest).unwrap_or(AT_ONCE).clamp(1, AT_ONCE)
}

fn finish(context: &Context, report: &Report<'_>, fatal: Option<Failure>) -> Result<(), Failure> {
    let (id, out) = (report.id, &context.out);
    let stay = |done: &str| format!("{done} {} of {}", report.done, count(report.matched));
    let done = if report.action == "replay" { stay("replayed") } else { stay("dropped") };
    if out.is_json() {
        out.json(report)?;
    } else {
        let mut line = format!("{done} of pipeline '{id}'");
        for (number, what) in [(report.repeated, "were in the stream already"), (report.gone, "were gone already")] {
            if number > 0 {
                line.push_str(&format!(", {number} {what}"));
            }
        }
        out.line(&line)?;
        for failed in report.failed.iter().take(TOLD) {
            out.toned(&failed.error, Tone::Bad)?;
        }
        if report.failed.len() > TOLD {
            out.line(&format!("… and {} more (--output json names them all)", report.failed.len() - TOLD))?;
        }
    }
    match (fatal, report.failed.len()) {
        (Some(failure), _) => {
            Err(Failure::new(failure.exit(), format!("{failure}; {done}, the others are untouched, and doing it again goes on with them")))
        }
        (None, 0) => Ok(()),
        (None, many) => {
            Err(Failure::new(Exit::Failed, format!("{} could not be {}ed and stay", count(many), report.action.replace("drop", "dropp"))))
        }
    }
}

fn show(context: &Context, id: &PipelineId, action: &'static str, chosen: &[Letter]) -> Result<(), Failure> {
    if context.out.is_json() {
        let report = Report {
            id,
            action,
            dry_run: true,
            matched: chosen.len(),
            done: 0,
            repeated: 0,
            gone: 0,
            failed: Vec::new(),
            letters: Some(chosen),
        };
        return context.out.json(&report);
    }
    table(&context.out, chosen.iter())?;
    context.out.note(&format!("would {action} {}", count(chosen.len())));
    Ok(())
}

fn nothing(context: &Context, id: &PipelineId, action: &'static str, dry_run: bool) -> Result<(), Failure> {
    if context.out.is_json() {
        let report = Report { id, action, dry_run, matched: 0, done: 0, repeated: 0, gone: 0, failed: Vec::new(), letters: None };
        return context.out.json(&report);
    }
    context.out.note(&format!("nothing to {action}: pipeline '{id}' has no such dead letters"));
    Ok(())
}

fn count(letters: usize) -> String {
    format!("{letters} dead letter{}", if letters == 1 { "" } else { "s" })
}

fn progress(letters: usize) -> ProgressBar {
    // Draws on stderr, and on nothing where that is no terminal.
    let bar = ProgressBar::new(letters as u64);
    match ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} eta {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
