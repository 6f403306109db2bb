//! `sluice completions SHELL`: the script that completes commands and options, made from the arguments themselves.
//!
//! Needs no settings and no server: `source <(sluice completions bash)`, or put it where the shell looks for it.

use super::failure::Failure;
use super::output::Output;
use clap::{Args, Command};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// `sluice completions`, of `command`.
pub fn completions(args: &CompletionsArgs, mut command: Command, out: &Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "sluice", &mut script);
    out.content(&script)
}
