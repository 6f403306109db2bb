//! `sluice execute`: one execution as a process of its own, started by an executor inside a container or a pod.
//!
//! The spec comes as JSON, without any secret, in `SLUICE_SPEC` or a file; the arguments say again what it is, so that a
//! process list and a container's command line can be read, and a spec that is not theirs is refused. The exit code
//! tells whoever restarts it whether that can help.

use super::context::Context;
use super::failure::{Exit, Failure};
use super::output::ColorChoice;
use super::run;
use crate::executor::standalone::Ended;
use crate::pipeline::spec::ExecutionSpec;
use clap::Args;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The newest format of a spec that this release reads.
const SCHEMA: u32 = 1;
/// How long files that are being put there are waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked whether they are there.
const LOOK: Duration = Duration::from_millis(5);
/// The variable that holds the spec.
const VARIABLE: &str = "SLUICE_SPEC";

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes:
  0  told to stop: what was held is written and acknowledged
  1  a restart can help
  3  a restart cannot help: the config is gone or has another digest, the settings or the spec are invalid
  4  the file that --await names did not come within 10 s

Reads its config from the Object Store by id, version and digest. Settings are found as for every command.")]
pub struct ExecuteArgs {
    /// The pipeline
    #[arg(long, value_name = "ID")]
    id: String,
    /// The version of its config
    #[arg(long, value_name = "VERSION")]
    version: String,
    /// The config's digest, SHA-256=…
    #[arg(long, value_name = "DIGEST")]
    digest: String,
    /// The fingerprint of the execution
    #[arg(long, value_name = "FINGERPRINT")]
    fingerprint: String,
    /// Which of several replicas this is, for logs
    #[arg(long, default_value_t = 0, value_name = "N")]
    instance: u32,
    /// The file that holds the execution's spec, instead of $SLUICE_SPEC
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    /// Before anything is read, wait until this file is there: it is put there after all others
    #[arg(long = "await", value_name = "FILE")]
    awaited: Option<PathBuf>,
}

impl ExecuteArgs {
    /// Waits for the file that is put there after settings and secrets. An executor that fills a volume while it starts what
    /// reads it needs this; most often the file is there before this process is.
    pub fn wait(&self) -> Result<(), Failure> {
        let Some(file) = &self.awaited else { return Ok(()) };
        let begun = Instant::now();
        while !file.exists() {
            if begun.elapsed() > LONGEST_WAIT {
                let message = format!("{} did not come within {} s (an executor puts it there)", file.display(), LONGEST_WAIT.as_secs());
                return Err(Failure::new(Exit::NotFound, message));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn read(&self) -> Result<ExecutionSpec, Failure> {
        let invalid = |message: String| Failure::new(Exit::Invalid, message);
        let (place, text) = match &self.spec {
            Some(file) => {
                let text = std::fs::read_to_string(file);
                (
                    file.display().to_string(),
                    text.map_err(|error| invalid(format!("{}: {error} (name a file with the spec)", file.display())))?,
                )
            }
            None => {
                let text = std::env::var(VARIABLE).unwrap_or_default();
                (VARIABLE.to_owned(), text)
            }
        };
        if text.is_empty() {
            return Err(invalid(format!("{place} is empty (an executor puts the spec there as JSON; by hand, `--spec FILE`)")));
        }
        let spec: ExecutionSpec = serde_json::from_str(&text)
            .map_err(|error| invalid(format!("{place} is no execution spec: {error} (take it from `admitted.spec` of the status)")))?;
        if spec.schema > SCHEMA {
            let message = format!(
                "{place} has schema {}, and this release reads up to {SCHEMA} (run the image of the controller's release)",
                spec.schema
            );
            return Err(invalid(message));
        }
        let told = [
            ("id", self.id.as_str(), spec.id.as_str()),
            ("version", &self.version, spec.version.as_str()),
            ("digest", &self.digest, &spec.digest),
            ("fingerprint", &self.fingerprint, &spec.fingerprint.0),
        ];
        match told.iter().find(|(_, argument, spec)| argument != spec) {
            Some((name, argument, spec)) => {
                Err(invalid(format!("--{name} is {argument}, but {place} says {spec} (both must come from one spec)")))
            }
            None => Ok(spec),
        }
    }
}

/// Runs until it is told to stop, or until no restart helps.
pub fn execute(context: Context, args: &ExecuteArgs, color: ColorChoice) -> Result<(), Failure> {
    let spec = args.read()?;
    let namespace = &context.settings.namespace;
    if spec.namespace != *namespace {
        let message = format!(
            "the spec is of the namespace {}, and the settings in {} of {namespace} (use the settings of the spec's controller)",
            spec.namespace,
            context.settings_place()
        );
        return Err(Failure::new(Exit::Invalid, message));
    }
    let instance = args.instance;
    run::long_lived(context, color, failure, async move |settings, stop| {
        tracing::info!(pipeline = %spec.id, version = %spec.version, instance, "execute");
        crate::app::execute(settings, spec, stop).await
    })
}

fn failure(error: &anyhow::Error) -> Failure {
    let exit = match error.downcast_ref::<Ended>() {
        Some(Ended::Hopeless(_)) => Exit::Invalid,
        _ => Exit::Failed,
    };
    Failure::new(exit, format!("{error:#}"))
}
