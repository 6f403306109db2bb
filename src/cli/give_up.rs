//! `sluice give-up`: the way out where a previous target will never answer again.
//!
//! An edit of the entry like any other: it names the targets, and is forgotten with the next version. What was in flight
//! when the target changed, and lies in one of them, is then written into the current target too.

use super::context::Context;
use super::edit::{author, done, write};
use super::failure::{Exit, Failure};
use super::publish::entry_of;
use crate::pipeline::entry::Edit;
use crate::pipeline::id::PipelineId;
use clap::Args;
use std::io::IsTerminal;

#[derive(Debug, Args)]
pub struct GiveUpArgs {
    /// The pipeline
    id: PipelineId,
    /// The previous target, `host:port/database.collection`, as the status names it; without one, all of them
    target: Option<String>,
    /// Do not ask; without a terminal nobody is asked anyway
    #[arg(long, short)]
    yes: bool,
}

pub async fn give_up(context: &Context, args: GiveUpArgs) -> Result<(), Failure> {
    let id = &args.id;
    let store = context.connect().await?;
    let record = context.existing(&store, id).await?;
    let status = store.status.get(id).await?;
    let mut targets: Vec<String> = status.iter().flat_map(|record| &record.status.kept.moves.previous).map(|left| left.name()).collect();
    if let Some(wanted) = &args.target {
        targets.retain(|target| target == wanted);
    }
    if targets.is_empty() {
        let message = match &args.target {
            Some(target) => format!("'{target}' is no previous target of pipeline '{id}' that is still asked"),
            None => format!("pipeline '{id}' has no previous target that is still asked"),
        };
        return Err(Failure::new(Exit::NotFound, message));
    }
    if !args.yes && context.out.is_terminal() && std::io::stdin().is_terminal() {
        let question = format!(
            "Give up {}? Documents that were in flight when the target of '{id}' changed may then be there and in the current target.",
            targets.join(", ")
        );
        if !context.out.confirm(&question)? {
            return Err(Failure::new(Exit::Failed, "nothing was given up"));
        }
    }
    let entry = entry_of(&record);
    let mut given_up = entry.as_ref().map(|entry| entry.give_up.clone()).unwrap_or_default();
    given_up.extend(targets);
    given_up.sort_unstable();
    given_up.dedup();
    let edit = Edit { give_up: Some(given_up), author: Some(author()), ..Edit::default() };
    let revision = write(context, &store, id, Some(&record), &edit).await?;
    let status = entry.as_ref().map_or("unreadable", |entry| entry.status.as_str());
    done(context, id, status, entry.as_ref().and_then(|entry| entry.version.as_ref()), Some(revision))
}
