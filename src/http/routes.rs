//! The routes. Everything but health asks for the bearer token where one is set, and answers 401 without it, whatever
//! the path; health answers without it, but leaves out what was checked: a stranger does not learn which pipelines there
//! are.
//!
//! A status document comes as it is stored, with the remedy beside each condition. Its history of conditions belongs to
//! the document of one pipeline and to `…/history`; the list of all leaves it out, to stay small. Lists come a page of
//! 1,000 at a time, `?after=ID&limit=N`, with a `Link` to the next where there is one.

use super::pages::{Copies, Page};
use super::{Check, Health, View};
use crate::pipeline::id::PipelineId;
use crate::pipeline::status::PipelineStatus;
use crate::settings::Secret;
use crate::telemetry::metrics::Metrics;
use axum::Json;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The content type of OpenMetrics, <https://prometheus.io/docs/specs/om/open_metrics_spec/>.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// So many pipelines that are not as they should be are named by health; of the others it says how many there are.
const NAMED: usize = 100;

#[derive(Clone)]
struct Shared {
    view: Arc<dyn View>,
    metrics: Arc<Metrics>,
    copies: Arc<Copies>,
    token: Known,
}

/// Who may see everything.
#[derive(Clone)]
enum Known {
    Everybody,
    /// Who sends this token, as it is now.
    Token(Secret),
    Nobody,
}

impl Shared {
    /// Whether a request with these headers may see everything.
    fn admits(&self, headers: &HeaderMap) -> bool {
        match &self.token {
            Known::Everybody => true,
            // Hashes, so that comparing takes the same time whatever was sent.
            Known::Token(token) => sent(headers).is_some_and(|sent| same(&hash(token.expose().as_bytes()), &sent)),
            Known::Nobody => false,
        }
    }

    /// Health, as much of it as a request with these headers may see.
    fn health(&self, headers: &HeaderMap) -> Health {
        self.shown(self.view.health(), headers)
    }

    fn shown(&self, mut health: Health, headers: &HeaderMap) -> Health {
        if !self.admits(headers) {
            return Health { holder: None, checks: Vec::new(), ..health };
        }
        let mut named = 0;
        health.checks.retain(|check| {
            named += usize::from(check.pipeline.is_some());
            check.pipeline.is_none() || named <= NAMED
        });
        if named > NAMED {
            let message = format!("{} more are named by /api/v1/pipelines", named - NAMED);
            health.checks.push(Check { name: "pipelines".into(), ok: false, message, pipeline: None });
        }
        health
    }
}

/// All routes.
pub fn router(token: Option<&Secret>, view: Arc<dyn View>, metrics: Arc<Metrics>) -> Router {
    let token = token.cloned().map_or(Known::Everybody, Known::Token);
    let shared = Shared { view, metrics, copies: Arc::default(), token };
    let guarded = Router::new()
        .route("/metrics", get(encoded))
        .route("/api/v1/pipelines", get(pipelines))
        .route("/api/v1/pipelines/{id}", get(pipeline))
        .route("/api/v1/pipelines/{id}/history", get(history))
        .route("/api/v1/executions", get(executions))
        .fallback(nothing_here)
        .layer(middleware::from_fn_with_state(shared.clone(), guard));
    health_routes().merge(guarded).with_state(shared)
}

/// Health alone, for whoever asks.
pub fn health(view: Arc<dyn View>) -> Router {
    // What was checked is left out for everybody.
    let shared = Shared { view, metrics: Metrics::shared(), copies: Arc::default(), token: Known::Nobody };
    health_routes().with_state(shared)
}

fn health_routes() -> Router<Shared> {
    let router = Router::new().route("/health/live", get(live)).route("/health/ready", get(ready));
    router.route("/health/pipelines", get(pipelines_health))
}

async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    if shared.admits(request.headers()) {
        let mut response = next.run(request).await;
        response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        return response;
    }
    let body = Json(json!({ "error": "a bearer token is needed: Authorization: Bearer …, the value of `http.token` in the settings" }));
    (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], body).into_response()
}

fn hash(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn sent(headers: &HeaderMap) -> Option<[u8; 32]> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| hash(token.trim().as_bytes()))
}

/// Compares every byte, so that the time says nothing about where they differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

async fn encoded(State(shared): State<Shared>) -> Response {
    match shared.copies.get(&shared.metrics) {
        Some(text) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        None => {
            let busy = problem(StatusCode::SERVICE_UNAVAILABLE, "too many slow readers of the metrics at the same time; ask again");
            ([(RETRY_AFTER, "5")], busy).into_response()
        }
    }
}

async fn live(State(shared): State<Shared>, headers: HeaderMap) -> impl IntoResponse {
    let health = shared.health(&headers);
    (status(health.live), Json(health))
}

async fn ready(State(shared): State<Shared>, headers: HeaderMap) -> impl IntoResponse {
    let health = shared.health(&headers);
    (status(health.live && health.ready), Json(health))
}

async fn pipelines_health(State(shared): State<Shared>, headers: HeaderMap) -> impl IntoResponse {
    let health = shared.shown(shared.view.pipelines(), &headers);
    (status(health.ready), Json(health))
}

fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

type Asked = Result<Query<Page>, QueryRejection>;

async fn pipelines(State(shared): State<Shared>, query: Asked) -> Response {
    let page = match Page::parse(query) {
        Ok(page) => page,
        Err(problem) => return *problem,
    };
    let without_history = |status: PipelineStatus| {
        let mut value = with_remedies(&status);
        if let Some(fields) = value.as_object_mut() {
            fields.remove("history");
        }
        value
    };
    let (ids, next) = page.cut(shared.view.ids(), |id| id.as_str());
    // Who reads slowly sees each as it is when its turn comes.
    let statuses = ids.into_iter().filter_map(move |id| shared.view.status(&id).map(without_history));
    page.answer("/api/v1/pipelines", statuses, next)
}

async fn pipeline(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    of_one(&shared, &id, with_remedies)
}

async fn history(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    of_one(&shared, &id, |status| json!({ "id": status.id, "conditions": with_remedies(status)["history"].take() }))
}

/// What `show` makes of the status of one pipeline.
fn of_one(shared: &Shared, id: &str, show: impl Fn(&PipelineStatus) -> Value) -> Response {
    match PipelineId::parse(id).map(|id| shared.view.status(&id)) {
        Ok(Some(status)) => Json(show(&status)).into_response(),
        Ok(None) => problem(StatusCode::NOT_FOUND, "there is no such pipeline; /api/v1/pipelines lists them"),
        Err(error) => problem(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

/// The status as it is stored, and the remedy beside each condition, now and before.
fn with_remedies(status: &PipelineStatus) -> Value {
    // A status is stored as this very JSON: what cannot be written is never read back either.
    let mut value = serde_json::to_value(status).unwrap_or_default();
    let now = status.conditions.iter().map(|condition| condition.reason);
    let before = status.history.iter().map(|transition| transition.reason);
    for (name, reasons) in [("conditions", now.collect::<Vec<_>>()), ("history", before.collect())] {
        if let Some(Value::Array(all)) = value.get_mut(name) {
            for (shown, reason) in all.iter_mut().zip(reasons) {
                shown["remedy"] = reason.remedy_for(status.id.as_str(), status.desired.version.as_deref()).into();
            }
        }
    }
    value
}

async fn executions(State(shared): State<Shared>, query: Asked) -> Response {
    let page = match Page::parse(query) {
        Ok(page) => page,
        Err(problem) => return *problem,
    };
    let (reports, next) = page.cut(shared.view.executions(), |report| report.id.as_str());
    page.answer("/api/v1/executions", reports.into_iter(), next)
}

async fn nothing_here() -> Response {
    let there = "there are /metrics, /health/live, /health/ready, /health/pipelines, /api/v1/pipelines, /api/v1/pipelines/{id}, \
                 /api/v1/pipelines/{id}/history, /api/v1/executions";
    problem(StatusCode::NOT_FOUND, there)
}

pub(super) fn problem(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_is_the_same() {
        assert!(same(&hash(b"secret"), &hash(b"secret")));
        for other in ["", "secre", "secret ", "Secret"] {
            assert!(!same(&hash(b"secret"), &hash(other.as_bytes())), "{other}");
        }
    }

    #[test]
    fn a_token_is_read_from_a_bearer_header_only() {
        let headers = |value: &'static str| HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
        assert_eq!(sent(&headers("Bearer t")), Some(hash(b"t")));
        assert_eq!(sent(&headers("bearer t")), Some(hash(b"t")));
        assert_eq!(sent(&headers("Basic t")), None);
        assert_eq!(sent(&HeaderMap::new()), None);
    }
}
