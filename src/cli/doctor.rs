//! `sluice doctor`: is everything safe that the settings name? And `--permissions ROLE`: what a role needs, as text that
//! NATS and MongoDB take. The first fails where something is wrong; the second needs no server.

use super::context::Context;
use super::failure::{Exit, Failure};
use super::output::{Output, Tone};
use crate::doctor::permissions::{self, MongoGrants, NatsGrants, Role};
use crate::doctor::{self, Finding, Verdict};
use crate::settings::Settings;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::collections::BTreeSet;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print the least permissions of a role on NATS (and, of an execution, on MongoDB) instead; of several together, as
    /// `controller,execution` for an in-process `sluice run`
    #[arg(long, value_enum, value_name = "ROLE,…", value_delimiter = ',')]
    pub permissions: Vec<RoleChoice>,
    /// A database that configs name, beside those of the settings; may be repeated
    #[arg(long, value_name = "NAME", requires = "permissions")]
    database: Vec<String>,
}

/// `--permissions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleChoice {
    /// A person or CI that publishes, pauses, deletes and looks
    Editor,
    /// Who publishes documents
    Producer,
    /// `sluice run` whose executions run elsewhere
    Controller,
    /// One execution; with controller together, `sluice run` in-process
    Execution,
}

impl From<RoleChoice> for Role {
    fn from(choice: RoleChoice) -> Self {
        match choice {
            RoleChoice::Editor => Self::Editor,
            RoleChoice::Producer => Self::Producer,
            RoleChoice::Controller => Self::Controller,
            RoleChoice::Execution => Self::Execution,
        }
    }
}

#[derive(Serialize)]
struct Permissions {
    roles: Vec<Role>,
    nats: NatsGrants,
    mongodb: Vec<MongoGrants>,
}

/// `sluice doctor --permissions ROLE`.
pub fn print_permissions(args: &DoctorArgs, settings: &Settings, out: &Output) -> Result<(), Failure> {
    let mut databases: BTreeSet<String> = args.database.iter().cloned().collect();
    databases.extend(settings.mongodb.connections.values().filter_map(|connection| connection.database.clone()));
    let databases: Vec<String> = databases.into_iter().collect();
    let roles: Vec<Role> = args.permissions.iter().map(|choice| Role::from(*choice)).collect();
    let nats = permissions::nats(&roles, &settings.names(), &settings.nats.inbox_prefix);
    let mongodb = permissions::mongodb(&roles, &databases);
    let reaches = roles.iter().any(|role| matches!(role, Role::Execution | Role::Controller));
    if out.is_json() {
        return out.json(&Permissions { roles, nats, mongodb });
    }
    let words = roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" and ");
    out.line(&format!("# NATS: the user of a process that is {words}, in the server's configuration"))?;
    out.lines(permissions::nats_block(&nats).trim_end())?;
    match (reaches, mongodb.is_empty()) {
        (true, true) => {
            out.note("note: neither the settings nor --database name a database, so no MongoDB role is printed");
            Ok(())
        }
        (false, _) => out.line("# MongoDB: nothing"),
        (true, false) => {
            out.line("")?;
            out.line("// MongoDB: a role for each database, in mongosh")?;
            out.lines(permissions::mongodb_commands(&mongodb).trim_end())
        }
    }
}

/// `sluice doctor`.
pub async fn doctor(context: &Context) -> Result<(), Failure> {
    let store = context.connect().await?;
    let findings = doctor::examine(&context.settings, &store).await;
    if context.out.is_json() {
        context.out.json(&findings)?;
    } else {
        let row = |finding: &Finding| {
            let (word, tone) = match finding.verdict {
                Verdict::Good => ("ok", Tone::Good),
                Verdict::Doubtful => ("doubtful", Tone::Doubtful),
                Verdict::Wrong => ("wrong", Tone::Bad),
            };
            let plain = |text: &str| (text.to_owned(), Tone::Plain);
            vec![(word.to_owned(), tone), plain(&finding.about), plain(&finding.message), plain(&finding.remedy)]
        };
        context.out.table(&["", "about", "found", "to do"], findings.iter().map(row).collect())?;
    }
    match findings.iter().filter(|finding| finding.verdict == Verdict::Wrong).count() {
        0 => Ok(()),
        wrong => {
            let what = if wrong == 1 { "1 thing is wrong".to_owned() } else { format!("{wrong} things are wrong") };
            Err(Failure::new(Exit::Failed, format!("{what}; the last column says what to do")))
        }
    }
}
