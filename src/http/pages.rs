//! What can be long: lists a page at a time, made while they are read, so that a slow reader holds a piece and not the
//! whole; and metrics, of which a few copies are held at most.

use super::routes::problem;
use crate::telemetry::metrics::Metrics;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, LINK};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Items of a page, unless `limit` asks for fewer.
pub(super) const PAGE: usize = 1000;
/// About so many bytes are made at a time.
const CHUNK: usize = 32 << 10;
/// Copies of the metrics that readers may hold.
const COPIES: usize = 4;
/// So long a copy is handed out again, if somebody still reads it.
const FRESH: Duration = Duration::from_secs(1);
/// So old a copy may be where readers hold as many as there may be.
const STALE: Duration = Duration::from_secs(15);

/// Which page is asked for.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Page {
    /// The id after which it begins.
    #[serde(default)]
    after: String,
    /// At most so many items.
    limit: Option<usize>,
}

impl Page {
    /// As asked for; the answer where it makes no sense.
    pub fn parse(query: Result<Query<Self>, QueryRejection>) -> Result<Self, Box<Response>> {
        let problem = |text: &str| Box::new(problem(StatusCode::BAD_REQUEST, text));
        match query {
            Ok(Query(page)) if page.limit.is_none_or(|limit| (1..=PAGE).contains(&limit)) => Ok(page),
            _ => Err(problem("`limit` must be a number from 1 to 1000, and `after` the id after which the page begins")),
        }
    }

    /// `items`, in the order of their ids, from `after` on, at most `limit`; those that bear one id are not torn apart. And the
    /// id after which the next page begins, where there is one.
    pub fn cut<T>(&self, mut items: Vec<T>, id: impl Fn(&T) -> &str) -> (Vec<T>, Option<String>) {
        items.sort_by(|a, b| id(a).cmp(id(b)));
        items.retain(|item| id(item) > self.after.as_str());
        let mut most = self.limit.unwrap_or(PAGE);
        while most < items.len() && id(&items[most]) == id(&items[most - 1]) {
            most += 1;
        }
        let next = (most < items.len()).then(|| id(&items[most - 1]).to_owned());
        items.truncate(most);
        (items, next)
    }

    /// A JSON array of what `items` brings, each made when its turn comes; `next` as a `Link` to `path`.
    pub fn answer<T: Serialize>(&self, path: &str, items: impl Iterator<Item = T> + Send + 'static, next: Option<String>) -> Response {
        let mut response = ([(CONTENT_TYPE, "application/json")], array(items)).into_response();
        let limit = self.limit.unwrap_or(PAGE);
        let link = next.and_then(|next| format!("<{path}?after={next}&limit={limit}>; rel=\"next\"").parse().ok());
        if let Some(link) = link {
            response.headers_mut().insert(LINK, link);
        }
        response
    }
}

fn array<T: Serialize>(mut items: impl Iterator<Item = T> + Send + 'static) -> Body {
    let (mut before, mut ended) = (b'[', false);
    let chunks = std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let mut chunk = Vec::with_capacity(CHUNK);
        while chunk.len() < CHUNK && !ended {
            match items.next() {
                Some(item) => {
                    chunk.push(before);
                    before = b',';
                    // What is shown was written as this very JSON before.
                    if let Ok(json) = serde_json::to_vec(&item) {
                        chunk.extend(json);
                    }
                }
                None => {
                    chunk.extend_from_slice(if before == b'[' { b"[]" } else { b"]" });
                    ended = true;
                }
            }
        }
        Some(Ok::<_, Infallible>(Bytes::from(chunk)))
    });
    Body::from_stream(futures_util::stream::iter(chunks))
}

/// The copies of the metrics that are being read.
#[derive(Debug, Default)]
pub(super) struct Copies(Mutex<Vec<(Instant, Weak<String>)>>);

struct Copy(Arc<String>);

impl AsRef<[u8]> for Copy {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Copies {
    /// The metrics as they are, or were a moment ago; `None` where readers hold too many old ones.
    pub fn get(&self, metrics: &Metrics) -> Option<Bytes> {
        let now = Instant::now();
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(_, text)| text.strong_count() > 0);
        let usable = if held.len() < COPIES { FRESH } else { STALE };
        let newest = held.last().filter(|(made, _)| now.duration_since(*made) < usable).and_then(|(_, text)| text.upgrade());
        let text = match newest {
            Some(text) => text,
            None if held.len() < COPIES => {
                let text = Arc::new(metrics.encode());
                held.push((now, Arc::downgrade(&text)));
                text
            }
            None => return None,
        };
        Some(Bytes::from_owner(Copy(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(after: &str, limit: usize) -> Page {
        Page { after: after.into(), limit: Some(limit) }
    }

    #[test]
    fn pages_put_together_are_the_whole_and_one_id_is_in_one_page() {
        let all = || vec!["d", "a", "b", "b", "b", "c"];
        assert_eq!(page("", 2).cut(all(), |id| id), (vec!["a", "b", "b", "b"], Some("b".into())));
        assert_eq!(page("b", 2).cut(all(), |id| id), (vec!["c", "d"], None));
        assert_eq!(page("x", 2).cut(all(), |id| id), (vec![], None));
    }

    #[tokio::test]
    async fn a_list_is_made_in_pieces_and_is_one_json_array() {
        for count in [0, 1, 5_000] {
            let body = array((0..count).map(|number| format!("item {number}")));
            let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            let read: Vec<String> = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(read.len(), count);
        }
    }

    #[test]
    fn readers_share_a_copy_of_the_metrics_and_hold_a_few_at_most() {
        let (metrics, copies) = (Metrics::new(), Copies::default());
        let first = copies.get(&metrics).unwrap();
        let again = copies.get(&metrics).unwrap();
        assert_eq!(first.as_ptr(), again.as_ptr(), "the same");
        let age = |seconds| copies.0.lock().unwrap().iter_mut().for_each(|(made, _)| *made -= Duration::from_secs(seconds));
        let mut held = vec![first];
        for _ in 1..COPIES {
            age(2);
            held.push(copies.get(&metrics).unwrap());
        }
        age(2);
        let newest = copies.get(&metrics).unwrap();
        assert_eq!(newest.as_ptr(), held[COPIES - 1].as_ptr(), "no more than that");
        age(20);
        assert!(copies.get(&metrics).is_none(), "too old to be told");
        drop((held, again, newest));
        assert!(copies.get(&metrics).is_some());
    }
}
