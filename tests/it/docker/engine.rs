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
use tokio::sync::mpsc;

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
    /// Where what happens from now on goes: one for each stream of events that was asked for. None of them ever ends by itself.
    listening: Vec<mpsc::UnboundedSender<String>>,
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

    /// How often something was asked whose path contains `what`.
    fn asked(&self, what: &str) -> usize {
        self.said.lock().unwrap().asked.iter().filter(|path| path.contains(what)).count()
    }

    /// Says on the newest stream of events what happened to a container of `id`, at this time of its clock.
    fn happens(&self, action: &str, id: &str, nanos: i64) {
        let attributes = json!({"sluice/id": id, "name": "one"});
        let event = json!({"Type": "container", "Action": action, "Actor": {"ID": "c", "Attributes": attributes}, "timeNano": nanos});
        self.said.lock().unwrap().listening.last().unwrap().send(format!("{event}\n")).unwrap();
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
    if said.lock().unwrap().silent_at.is_some_and(|at| path.contains(at)) {
        std::future::pending::<()>().await;
    }
    if path.contains("/events") {
        let (sender, events) = mpsc::unbounded_channel();
        said.lock().unwrap().listening.push(sender);
        let lines =
            futures_util::stream::unfold(events, |mut events| async { Some((Ok::<_, std::io::Error>(events.recv().await?), events)) });
        return axum::body::Body::from_stream(lines).into_response();
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
        let before = played.asked(at);
        eventually(&format!("{at} is asked again"), SOON, || async { played.asked(at) > before }).await;
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
    let made = || played.asked("/start");
    eventually("many were started", SOON, || async { made() > 100 }).await;
    assert_eq!(played.said.lock().unwrap().most, 3);
    // Files of several go together.
    let carriers = played.asked("/archive");
    assert!(carriers < made(), "{carriers} carriers for {} containers", made());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_stop_coming_without_an_end_are_asked_for_again_from_where_they_stood() {
    let played = Played::start(41);
    let backend = played.backend();
    let mut hints = backend.events();
    let mut hinted = async |what: &str| {
        eventually(what, SOON, || {
            let hinted = hints.try_recv().is_ok_and(|hinted| hinted == id());
            async move { hinted }
        })
        .await;
    };
    let streams = |count: usize| {
        let said = &played.said;
        async move {
            eventually(&format!("events are asked for {count} times"), SOON, || async { said.lock().unwrap().listening.len() >= count })
                .await;
        }
    };
    streams(1).await;
    played.happens("die", "metrics", 7_000_000_005);
    hinted("what happens is a hint").await;

    // From here on the first stream says nothing more, and nobody says that it has ended.
    streams(2).await;
    let asked = played.said.lock().unwrap().asked.iter().rfind(|path| path.contains("/events")).cloned().unwrap();
    assert!(asked.contains("since=7.000000006"), "{asked}");
    let lists = played.asked("/containers/json");
    played.happens("die", "metrics", 8_000_000_000);
    hinted("what was missed is a hint").await;
    assert_eq!(played.asked("/containers/json"), lists, "nothing was missed, so that nothing is listed");

    // An engine that does not even begin to answer has gone away.
    let connections = played.asked("/version");
    played.said.lock().unwrap().silent_at = Some("/events");
    eventually("a new connection is made", SOON, || async { played.asked("/version") > connections }).await;
    played.said.lock().unwrap().silent_at = None;
    let before = played.said.lock().unwrap().listening.len();
    streams(before + 1).await;
    eventually("everything is listed", SOON, || async { played.asked("/containers/json") > lists }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_at_the_same_moment_share_what_lists_and_each_sees_its_own() {
    let played = Played::start(41);
    let backend = played.backend();
    eventually("it has listed all at its start", SOON, || async {
        played.asked("/containers/json") == 1 && played.asked("/volumes?") == 1
    })
    .await;
    let ids: Vec<_> = (0..100).map(|n| PipelineId::parse(&format!("p{n}")).unwrap()).collect();
    let seen = futures_util::future::join_all(ids.iter().map(|id| backend.observe(id))).await;
    assert!(seen.into_iter().all(|seen| seen.unwrap().is_none()));
    let lists = played.asked("/containers/json");
    assert!((2..=10).contains(&lists), "{lists} lists for a hundred looks");
    // Alone it is asked for its own.
    backend.observe(&ids[7]).await.unwrap();
    assert!(played.last().contains("p7"), "{}", played.last());
}
