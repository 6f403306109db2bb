//! `sluice run`, and what every long-lived process begins with. Logs are set up before anything else; the first SIGTERM or SIGINT ends it
//! gracefully, the second at once. SIGHUP reads secrets and settings again; every other signal that would end the process by
//! default, and by that lose what it holds, is ignored.

use super::context::Context;
use super::failure::{Exit, Failure};
use super::output::ColorChoice;
use super::reload::Reload;
use crate::settings::{LogFormat, Settings};
use crate::store::{StoreError, StoreErrorKind};
use crate::telemetry::logs;
use std::io::IsTerminal;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Runs the controller until it is told to stop.
pub fn run(context: Context, color: ColorChoice) -> Result<(), Failure> {
    long_lived(context, color, failure, crate::app::run)
}

/// Sets up logs, runtime and signals, and runs `process` until it ends; the token is cancelled when it is told to stop.
/// `failure` makes an exit code of its error.
pub fn long_lived(
    context: Context,
    color: ColorChoice,
    failure: fn(&anyhow::Error) -> Failure,
    process: impl AsyncFnOnce(Settings, CancellationToken) -> anyhow::Result<()>,
) -> Result<(), Failure> {
    let terminal = std::io::stderr().is_terminal();
    let log = &context.settings.log;
    let json = match log.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let format = if json { logs::Format::Json } else { logs::Format::Text { colors: color.enabled(terminal) } };
    let level = logs::init(format, &log.level)
        .map_err(|error| Failure::new(Exit::Invalid, format!("{}: log.level: {error}", context.settings_place())))?;
    for problem in &context.warnings {
        tracing::warn!(file = problem.file, path = problem.path, problem = %problem, "doubtful setting");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime
        .block_on(async {
            let stop = CancellationToken::new();
            ignore_signals()?;
            tokio::spawn(watch_signals(stop.clone())?);
            let hangup = signal(SignalKind::hangup())?;
            let reload = Reload::new(context.sources, &context.settings, context.written, level);
            let told = stop.clone();
            tokio::spawn(async move {
                // A terminal that was closed hangs up, too: nobody is left who could end the process.
                reload.run(hangup, move || terminal && !std::io::stderr().is_terminal()).await;
                tracing::info!(signal = "SIGHUP", "the terminal is gone, stopping");
                told.cancel();
            });
            process(context.settings, stop).await.map_err(|error| failure(&error))
        })
        .map_err(|failure| {
            if !json {
                return failure;
            }
            // Whoever reads these logs reads JSON, to the last line.
            tracing::error!(error = %failure, "sluice ends");
            Failure::told(failure.exit())
        })
}

/// Ours keep their exit code through anyhow; everything else failed at run time.
fn failure(error: &anyhow::Error) -> Failure {
    let exit = match error.downcast_ref::<StoreError>().map(StoreError::kind) {
        Some(StoreErrorKind::Unavailable) => Exit::Unreachable,
        Some(StoreErrorKind::Unfit(_)) => Exit::Invalid,
        _ => Exit::Failed,
    };
    Failure::new(exit, format!("{error:#}"))
}

/// Keeps signals that mean nothing here from ending the process, which is their default. Not SIGQUIT: who sends that wants a
/// core dump.
fn ignore_signals() -> std::io::Result<()> {
    for kind in [SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::alarm(), SignalKind::pipe(), SignalKind::io()] {
        // Once listened to, a signal does nothing else any more, though nobody listens.
        signal(kind).map(drop)?;
    }
    // Timers, a failing power supply, and those for programs to use as they like; which there are differs by system.
    for number in [26, 27, 30].into_iter().chain(34..=64).filter(|_| cfg!(target_os = "linux")) {
        // A C library may keep some for itself.
        signal(SignalKind::from_raw(number)).ok();
    }
    Ok(())
}

/// Listens from now on, so that no signal is missed between the start and the first poll.
fn watch_signals(stop: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 143),
                _ = interrupt.recv() => ("SIGINT", 130),
            }
        };
        let (name, _) = next().await;
        tracing::info!(signal = name, "stopping, a second signal ends the process at once");
        stop.cancel();
        let (name, code) = next().await;
        tracing::warn!(signal = name, "ending at once, unacknowledged messages will be delivered again");
        std::process::exit(code);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_which_a_vital_part_has_died_exits_with_1_and_says_which() {
        let failure = failure(&anyhow::Error::from(crate::controller::Died("a worker")));
        assert!(failure.exit() == Exit::Failed && failure.to_string().contains("a worker ended by itself"), "{failure}");
    }
}
