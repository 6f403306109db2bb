//! The commands: arguments are parsed here, each group of commands has its file, and `main` turns the result into an
//! exit code.
//!
//! Every command loads the settings, does one thing, prints one result to stdout and at most one error to stderr.
//! Nothing but this module and `main.rs` knows that there is a command line.

mod completions;
mod conditions;
mod config;
mod context;
mod diff;
mod dlq;
mod doctor;
mod edit;
mod execute;
mod facts;
mod failure;
mod give_up;
mod history;
mod lint;
mod list;
mod logs;
mod output;
mod probe;
mod publish;
mod reload;
mod restore;
mod run;
mod schema;
mod send;
mod status;
mod wait;

pub use failure::{Exit, Failure};

use clap::{Args, CommandFactory, Parser, Subcommand};
use context::Context;
use output::{ColorChoice, Format, Output};
use std::path::PathBuf;
use std::process::ExitCode;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  something failed while running
  2  the arguments are wrong
  3  settings, a config, an entry or input documents are invalid
  4  there is no such pipeline, version or dead letter
  5  somebody else edited meanwhile
  6  --wait ran out of time
  7  NATS or MongoDB cannot be reached
  8  NATS does not permit it to the user of the settings

Settings come from --settings, else $SLUICE_SETTINGS, config/sluice.yml or
config/values.yml, else defaults; SLUICE_… variables override them, and --set both.
Results go to stdout, notes and errors to stderr.";

/// Pipelines from NATS JetStream into MongoDB: published, paused and withdrawn by editing one entry.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, about, after_help = EXIT_CODES, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

// A doc comment here would replace the description of the whole command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// The settings file
    #[arg(long, global = true, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Override one setting, for instance `nats.urls=nats://db1:4222`; may be repeated
    #[arg(long, global = true, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Tables for people or JSON for programs
    #[arg(long, short, global = true, value_enum, default_value = "table", value_name = "FORMAT")]
    output: Format,
    /// When to use colours; `auto` means on a terminal where `NO_COLOR` is not set
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "WHEN")]
    color: ColorChoice,
}

impl Global {
    /// Whether somebody named settings, rather than leaving them to be found.
    fn names_settings(&self) -> bool {
        let by_variable = std::env::var_os("SLUICE_SETTINGS").is_some_and(|value| !value.is_empty());
        self.settings.is_some() || !self.set.is_empty() || by_variable
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controller, and with it every published pipeline, until SIGTERM or SIGINT
    Run,
    /// Run one execution as a process of its own; what an executor starts inside a container
    Execute(execute::ExecuteArgs),
    /// Ask the process of the same settings over loopback whether it is ready; for a container's health check
    Probe(probe::ProbeArgs),
    /// Store a config as a new version and publish it; without a config, publish what is there (after a pause, say)
    Publish(publish::PublishArgs),
    /// Stop a pipeline and keep it: messages wait in the stream until it is published again
    Pause(edit::EditArgs),
    /// Take a pipeline out of service without a trace of its execution; stream and data stay
    Draft(edit::EditArgs),
    /// Delete a pipeline: what waits is written first, then its stream goes, unless `on_delete` says otherwise
    Delete(edit::DeleteArgs),
    /// Go back to an earlier version
    Rollback(edit::RollbackArgs),
    /// Put back the last entry that could be read, also after a delete
    Restore(restore::RestoreArgs),
    /// Give up previous targets: what was in flight when the target changed is not looked up there any more
    GiveUp(give_up::GiveUpArgs),
    /// List the pipelines
    List,
    /// Show how pipelines are doing: state, version, lag, rate, dead letters, and what to do about what is wrong
    Status(status::StatusArgs),
    /// Show the last log lines of a pipeline, from every process that runs it or decides about it
    Logs(logs::LogsArgs),
    /// Show who changed the entry and when, and how the conditions changed
    History(history::HistoryArgs),
    /// Compare two versions: what is admitted with what the entry says, or any two
    Diff(diff::DiffArgs),
    /// Look at the stored configs
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Check configs without any server; fails on errors, not on warnings. With --settings, connections are checked too
    Lint(lint::LintArgs),
    /// Send documents from a file to a pipeline's stream
    Send(send::SendArgs),
    /// Look at dead letters: documents that MongoDB refuses, with the reason
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Check NATS and MongoDB for what is unsafe, missing or too old; or print the permissions that a role needs
    Doctor(doctor::DoctorArgs),
    /// Print the JSON Schema of an entry, a config, the settings or a status document
    Schema(schema::SchemaArgs),
    /// Print the script that completes commands and options in a shell
    Completions(completions::CompletionsArgs),
}

/// Parses the arguments, runs the command, and says how it ended.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    let out = Output::new(cli.global.output, cli.global.color);
    // Several dependencies bring rustls; with ring chosen once, none of them has to guess. An error means that it is
    // chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match dispatch(cli, &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            out.error(&failure);
            failure.exit().into()
        }
    }
}

fn dispatch(cli: Cli, out: &Output) -> Result<(), Failure> {
    let global = &cli.global;
    let load = || Context::load(global.settings.as_deref(), &global.set, out.clone());
    if let Command::Lint(args) = &cli.command {
        let context = if global.names_settings() { Some(load()?) } else { None };
        return lint::lint(args, context.as_ref().map(|context| &context.settings), out);
    }
    match &cli.command {
        Command::Schema(args) => return schema::schema(args, out),
        Command::Completions(args) => return completions::completions(args, Cli::command(), out),
        _ => {}
    }
    if let Command::Execute(args) = &cli.command {
        args.wait()?;
    }
    let context = load()?;
    if let Command::Run = cli.command {
        return run::run(context, cli.global.color);
    }
    if let Command::Doctor(args) = &cli.command
        && !args.permissions.is_empty()
    {
        return doctor::print_permissions(args, &context.settings, out);
    }
    if let Command::Execute(args) = &cli.command {
        return execute::execute(context, args, cli.global.color);
    }
    if let Command::Probe(args) = &cli.command {
        return probe::probe(&context, args);
    }
    for warning in &context.warnings {
        out.warn(warning);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let context = &context;
    runtime.block_on(context.unless_forbidden(async {
        match cli.command {
            Command::Run | Command::Execute(_) | Command::Probe(_) | Command::Lint(_) | Command::Schema(_) | Command::Completions(_) => {
                Ok(())
            }
            Command::Publish(args) => publish::publish(context, args).await,
            Command::Pause(args) => edit::pause(context, args).await,
            Command::Draft(args) => edit::draft(context, args).await,
            Command::Delete(args) => edit::delete(context, args).await,
            Command::Rollback(args) => edit::rollback(context, args).await,
            Command::Restore(args) => restore::restore(context, args).await,
            Command::GiveUp(args) => give_up::give_up(context, args).await,
            Command::List => list::list(context).await,
            Command::Status(args) => status::status(context, args).await,
            Command::Logs(args) => logs::logs(context, args).await,
            Command::History(args) => history::history(context, args).await,
            Command::Diff(args) => diff::diff(context, args).await,
            Command::Config(command) => config::config(context, command).await,
            Command::Send(args) => send::send(context, args).await,
            Command::Dlq(command) => dlq::dlq(context, command).await,
            Command::Doctor(_) => doctor::doctor(context).await,
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_lists_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        for code in 0..=8 {
            assert!(help.contains(&format!("\n  {code}  ")), "{code}: {help}");
        }
    }
}
