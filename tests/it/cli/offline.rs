//! What needs no server: arguments, lint, settings, exit codes, and what never stands in an error.

use super::{CONFIG, Cli};

const NOWHERE: &str = "nats://127.0.0.1:1";

#[tokio::test]
async fn a_config_without_problems_passes_lint() {
    let cli = Cli::new(NOWHERE);
    let file = cli.file("good.yml", CONFIG);
    cli.ok(&["lint", &file]).await;
    let report = cli.json(&["lint", &file]).await;
    assert_eq!((report["files"].as_u64(), report["errors"].as_u64()), (Some(1), Some(0)));
}

#[tokio::test]
async fn lint_names_every_problem_by_file_line_and_column_and_exits_3() {
    let cli = Cli::new(NOWHERE);
    let good = cli.file("good.yml", CONFIG);
    let bad = cli.file("bad.yml", "schema: 1\noutput:\n  mongodb:\n    colection: metrics\n    batching: {count: 0}\n");
    let output = cli.run(&["lint", &good, &bad]).await;
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{stdout}");
    assert!(stdout.contains(&format!("{bad}:4:5: error: ")), "{stdout}");
    assert!(stdout.contains(&format!("{bad}:5:23: error: ")), "{stdout}");
    assert!(!stdout.contains("good.yml"), "{stdout}");
    let output = cli.run(&["lint", &bad, "--output", "json"]).await;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), report["errors"].as_u64()), (Some(3), Some(2)));
    assert_eq!((report["problems"][0]["line"].as_u64(), report["problems"][0]["column"].as_u64()), (Some(4), Some(5)));
}

#[tokio::test]
async fn lint_checks_connections_only_where_settings_are_named() {
    let cli = Cli::new(NOWHERE);
    let file = cli.file("elsewhere.yml", format!("{CONFIG}    connection: archive\n"));
    let offline = |set: Option<(&'static str, String)>| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.args(["lint", &file]).current_dir(cli.dir.path()).env_remove("SLUICE_SETTINGS").envs(set);
        async move { command.output().await.unwrap().status.code() }
    };
    assert_eq!(offline(None).await, Some(0));
    assert_eq!(offline(Some(("SLUICE_SETTINGS", cli.settings.display().to_string()))).await, Some(3));
    let output = cli.run(&["lint", &file]).await;
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(3) && stdout.contains("no connection 'archive'"), "{stdout}");
    cli.ok(&["lint", &file, "--set", "mongodb.connections.archive.url=mongodb://a:1"]).await;
}

#[tokio::test]
async fn warnings_do_not_fail_lint() {
    let cli = Cli::new(NOWHERE);
    let file = cli.file("doubtful.yml", format!("{CONFIG}    write_concern: {{w: 1, j: true}}\n"));
    let output = cli.run(&["lint", &file]).await;
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && stdout.contains("warning: "), "{stdout}");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_or_is_too_large_is_named() {
    let cli = Cli::new(NOWHERE);
    let output = cli.run(&["lint", "nowhere.yml"]).await;
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("nowhere.yml: error: cannot be read"));
    let error = cli.fails(3, &["publish", "metrics", "-f", "nowhere.yml"]).await;
    assert!(error.contains("nowhere.yml: cannot be read") && error.contains("check the path"), "{error}");
    let large = cli.file("large.yml", vec![b'#'; 2 << 20]);
    assert!(cli.fails(3, &["publish", "metrics", "-f", &large]).await.contains("1 MiB"));
    assert_eq!(cli.run(&["lint", &large]).await.status.code(), Some(3));
}

#[tokio::test]
async fn wrong_arguments_exit_2_and_name_the_rule() {
    let cli = Cli::new(NOWHERE);
    assert!(cli.fails(2, &["pause", "../x"]).await.contains("pipeline id"));
    cli.fails(2, &["publish"]).await;
    assert!(cli.fails(2, &["publish", "metrics", "--wait=soon"]).await.contains("30s"));
}

#[tokio::test]
async fn settings_that_are_missing_or_wrong_exit_3() {
    let cli = Cli::new(NOWHERE);
    assert!(cli.fails(3, &["list", "--set", "nats.urlz=x"]).await.contains("did you mean 'urls'"));
    let mut command = cli.command(&["list"]);
    let output = command.env("SLUICE_NAMESPACE", "a-b").output().await.unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", super::stderr(&output));
}

#[tokio::test]
async fn nats_that_does_not_answer_exits_7_and_is_named_without_the_password() {
    let cli = Cli::new("nats://user:canary-secret@127.0.0.1:1");
    let error = cli.fails(7, &["list"]).await;
    assert!(error.contains("127.0.0.1:1") && error.contains("nats.urls"), "{error}");
    assert!(!error.contains("canary"), "{error}");
}

#[tokio::test]
async fn a_log_level_that_is_none_is_named_before_anything_runs() {
    let cli = Cli::new(NOWHERE);
    let error = cli.fails(3, &["run", "--set", "log.level=loud"]).await;
    assert!(error.contains("'loud' is no") && error.contains("log.level"), "{error}");
}

#[tokio::test]
async fn colours_are_used_in_a_pipe_only_where_they_are_asked_for() {
    let cli = Cli::new(NOWHERE);
    let bad = cli.file("bad.yml", "schema: 1\ncolor: red\n");
    for (extra, colours) in [(&["--color", "auto"], false), (&["--color", "never"], false), (&["--color", "always"], true)] {
        let output = cli.run(&[&["lint", &bad], extra.as_slice()].concat()).await;
        assert_eq!(output.stdout.contains(&0x1b), colours, "{extra:?}");
        assert_eq!(output.stderr.contains(&0x1b), colours, "{extra:?}");
    }
}
