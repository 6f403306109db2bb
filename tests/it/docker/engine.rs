//! How the engine is spoken to, against one that a test plays: versions, calls that are never answered, bounded starts.

use crate::executor::{SOON, id, spec};
use crate::support::{eventually, temp_dir};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use sluice::executor::{Executor, docker::DockerExecutor};
use sluice::pipeline::id::PipelineId;
use sluice::pipeline::spec::{ExecutionSpec, Target};
use sluice::pipeline::status::Reason;
use sluice::settings::Settings;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An engine that has nothing, says yes to everything, and forgets it.
struct Played {
    said: Arc<Mutex<Said>>,
    settings: Settings,
    _dir: tempfile::TempDir,
}

#[derive(Default)]
struct Said {
    /// The API that it speaks: `1.` and this.
    minor: u32,
    /// What it was asked.
    asked: Vec<String>,
    /// What it never answers: paths that contain this.
    silent_at: Option<&'static str>,
    /// Containers that are being made or started, and the most that ever were.
    starting: usize,
    most: usize,
}

impl Played {
    fn start(minor: u32) -> Self {
        let dir = temp_dir("engine");
        let path = dir.path().join("docker.sock");
        let said = Arc::new(Mutex::new(Said { minor, ..Said::default() }));
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let router = Router::new().fallback(answer).with_state(said.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut settings = Settings::default();
        settings.executor.docker.host = format!("unix://{}", path.display());
        settings.executor.docker.timeout = Duration::from_secs(1);
        settings.executor.docker.parallel = 3;
        Self { said, settings, _dir: dir }
    }

    fn backend(&self) -> DockerExecutor {
        DockerExecutor::new(Arc::new(self.settings.clone()), uuid::Uuid::nil())
    }

    fn last(&self) -> String {
        self.said.lock().unwrap().asked.iter().rfind(|path| path.contains("/containers/json")).cloned().unwrap_or_default()
    }
}

async fn answer(State(said): State<Arc<Mutex<Said>>>, request: Request) -> axum::response::Response {
    let path = request.uri().to_string();
    let minor = {
        let mut said = said.lock().unwrap();
        said.asked.push(path.clone());
        said.minor
    };
    if said.lock().unwrap().silent_at.is_some_and(|at| path.contains(at)) || path.contains("/events") {
        std::future::pending::<()>().await;
    }
    let wants = path.strip_prefix("/v1.").and_then(|rest| rest.split('/').next()?.parse::<u32>().ok());
    let json = |code: StatusCode, body: Value| (code, axum::Json(body)).into_response();
    if path.contains("/version") {
        return json(StatusCode::OK, json!({"ApiVersion": format!("1.{minor}"), "MinAPIVersion": "1.12", "Version": "played"}));
    }
    if wants.is_some_and(|wants| wants > minor) {
        return json(StatusCode::BAD_REQUEST, json!({"message": "client version is too new"}));
    }
    let carrier = path.contains("-loader");
    match path.split('?').next().unwrap_or_default() {
        path if path.ends_with("/containers/json") => json(StatusCode::OK, json!([])),
        path if path.ends_with("/volumes") => json(StatusCode::OK, json!({"Volumes": [], "Warnings": []})),
        path if path.ends_with("/volumes/create") => json(
            StatusCode::CREATED,
            json!({"Name": "v", "Driver": "local", "Mountpoint": "", "Labels": {}, "Scope": "local", "Options": {}}),
        ),
        path if path.ends_with("/containers/create") => {
            if !carrier {
                let mut said = said.lock().unwrap();
                said.starting += 1;
                said.most = said.most.max(said.starting);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            json(StatusCode::CREATED, json!({"Id": "c", "Warnings": []}))
        }
        path if path.ends_with("/start") => {
            tokio::time::sleep(Duration::from_millis(10)).await;
            said.lock().unwrap().starting -= 1;
            StatusCode::NO_CONTENT.into_response()
        }
        _ => json(StatusCode::OK, json!({})),
    }
}

fn plain(id: &str) -> ExecutionSpec {
    let target = Target { hosts: vec!["a:1".into()], database: "d".into(), collection: "c".into() };
    ExecutionSpec { id: PipelineId::parse(id).unwrap(), ..spec("1", "a", target) }.seal("")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_too_old_is_said_and_no_retry_helps() {
    let error = Played::start(40).backend().list().await.unwrap_err();
    assert!(!error.retry && error.reason == Reason::EngineRefuses, "{error}");
    assert!(error.message.contains("1.40") && error.message.contains("1.41"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_is_negotiated_anew_when_another_engine_takes_its_place() {
    let played = Played::start(43);
    let backend = played.backend();
    backend.list().await.unwrap();
    assert!(played.last().starts_with("/v1.43/"), "{}", played.last());
    for minor in [41, 44] {
        played.said.lock().unwrap().minor = minor;
        // One that speaks more than before is not asked for it until the connection is a new one.
        played.said.lock().unwrap().silent_at = Some("/containers/json");
        assert!(backend.list().await.is_err());
        played.said.lock().unwrap().silent_at = None;
        backend.list().await.unwrap();
        assert!(played.last().starts_with(&format!("/v1.{minor}/")), "{}", played.last());
    }
    // It refuses what it does not speak, and is asked what it does.
    played.said.lock().unwrap().minor = 42;
    eventually("it is asked in its own version", SOON, || async { backend.list().await.is_ok() && played.last().starts_with("/v1.42/") })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_waited_for_longer_than_its_time_and_what_hangs_is_tried_again() {
    let played = Played::start(41);
    played.said.lock().unwrap().silent_at = Some("/version");
    let error = played.backend().list().await.unwrap_err();
    assert!(error.retry && error.reason == Reason::EngineUnavailable && error.message.contains("since"), "{error}");
    for at in ["/images/", "/volumes/create", "/containers/create", "/archive", "/start"] {
        played.said.lock().unwrap().silent_at = Some(at);
        let backend = played.backend();
        backend.ensure(&plain("metrics")).await.unwrap();
        eventually(&format!("{at} is given up"), SOON, || async {
            let seen = backend.observe(&id()).await.ok().flatten();
            seen.is_some_and(|seen| seen.troubles.iter().any(|trouble| trouble.reason == Reason::EngineUnavailable))
        })
        .await;
        let asked = || played.said.lock().unwrap().asked.iter().filter(|path| path.contains(at)).count();
        let before = asked();
        eventually(&format!("{at} is asked again"), SOON, || async { asked() > before }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_containers_are_made_and_started_at_the_same_time_than_the_settings_say() {
    let played = Played::start(41);
    let backend = played.backend();
    for n in 0..20 {
        backend.ensure(&plain(&format!("p{n}"))).await.unwrap();
    }
    // It forgets what it made, so that there is always more to make.
    let made = || played.said.lock().unwrap().asked.iter().filter(|path| path.contains("/start")).count();
    eventually("many were started", SOON, || async { made() > 100 }).await;
    assert_eq!(played.said.lock().unwrap().most, 3);
    // Files of several go together.
    let carriers = played.said.lock().unwrap().asked.iter().filter(|path| path.contains("/archive")).count();
    assert!(carriers < made(), "{carriers} carriers for {} containers", made());
}
