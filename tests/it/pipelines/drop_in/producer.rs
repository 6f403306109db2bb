//! A producer of the first parent, byte for byte: what its Go SDK (on nats.go 1.48) sends, as recorded from the wire.

use super::super::*;
use async_nats::{Client, HeaderMap, Message};
use serde_json::json;

/// The server's word for a stream that is not there.
const STREAM_NOT_FOUND: u64 = 10059;
/// What create-or-update says of the bucket.
const BUCKET: &str = r#"{"name":"KV_alpha","subjects":["$KV.alpha.\u003e"],"retention":"limits","max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"discard":"new","max_age":0,"max_msgs_per_subject":3,"max_msg_size":-1,"storage":"file","num_replicas":1,"duplicate_window":120000000000,"deny_delete":true,"allow_rollup_hdrs":true,"compression":"s2","allow_direct":true,"mirror_direct":false,"consumer_limits":{}}"#;

/// A producer for one key in the namespace `alpha`.
pub struct Producer {
    client: Client,
    key: String,
    subs: Vec<String>,
    collection: String,
}

impl Producer {
    pub(super) async fn of(stage: &Stage, key: &str) -> Self {
        Self::with(stage.nats.client().await, key)
    }

    pub fn with(client: Client, key: &str) -> Self {
        Self { client, key: key.into(), subs: Vec::new(), collection: key.into() }
    }

    pub fn into(self, collection: &str) -> Self {
        Self { collection: collection.into(), ..self }
    }

    pub fn also_on(self, subject: &str) -> Self {
        Self { subs: vec![subject.into()], ..self }
    }

    /// What the collector itself does at its start, and the SDK's own tests: create or update the bucket.
    pub async fn create_or_update_bucket(&self) {
        let answer = self.request("$JS.API.STREAM.UPDATE.KV_alpha", BUCKET).await;
        assert!(answer.get("error").is_none(), "{answer}");
    }

    /// `Add`: the stream, the durable, the entry.
    pub async fn add(&self) {
        self.add_by("CONSUMER.CREATE.alpha_KEY.default").await;
    }

    /// The same by an SDK that knows the older API for durables only.
    pub async fn add_by_an_older_one(&self) {
        self.add_by("CONSUMER.DURABLE.CREATE.alpha_KEY.default").await;
    }

    async fn add_by(&self, durable: &str) {
        let Self { key, subs, .. } = self;
        let subjects: Vec<_> = std::iter::once(format!("\"alpha.{key}\"")).chain(subs.iter().map(|sub| format!("{sub:?}"))).collect();
        let stream = format!(
            r#"{{"name":"alpha_{key}","description":"Metrics stream","subjects":[{}],"retention":"workqueue","max_consumers":0,"max_msgs":0,"max_bytes":0,"discard":"old","max_age":0,"max_msgs_per_subject":0,"storage":"file","num_replicas":0,"compression":"none","allow_direct":false,"mirror_direct":false,"consumer_limits":{{}}}}"#,
            subjects.join(",")
        );
        let mut answer = self.request(&format!("$JS.API.STREAM.UPDATE.alpha_{key}"), &stream).await;
        if answer["error"]["err_code"] == STREAM_NOT_FOUND {
            answer = self.request(&format!("$JS.API.STREAM.CREATE.alpha_{key}"), &stream).await;
        }
        assert!(answer.get("error").is_none(), "{answer}");
        let consumer = format!(
            r#"{{"stream_name":"alpha_{key}","config":{{"durable_name":"default","deliver_policy":"all","ack_policy":"explicit","replay_policy":"instant","num_replicas":0}},"action":""}}"#
        );
        let answer = self.request(&format!("$JS.API.{}", durable.replace("KEY", key)), &consumer).await;
        assert!(answer.get("error").is_none(), "{answer}");
        self.put(&self.entry()).await;
    }

    fn entry(&self) -> String {
        let subs = if self.subs.is_empty() { "null".to_owned() } else { json!(self.subs).to_string() };
        format!(r#"{{"key":"{}","subs":{subs},"description":"Metrics stream","collection":"{}"}}"#, self.key, self.collection)
    }

    /// Puts any value under the key; its revision.
    pub async fn put(&self, value: &str) -> u64 {
        let answer = self.request(&format!("$KV.alpha.{}", self.key), value).await;
        answer["seq"].as_u64().unwrap_or_else(|| panic!("{answer}"))
    }

    /// `Remove`.
    pub async fn remove(&self) {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        let request = async_nats::client::Request::new().headers(headers).timeout(Some(SOON));
        self.client.send_request(format!("$KV.alpha.{}", self.key), request).await.unwrap();
    }

    /// The state as `Get` asks for it: the first answer within `patience`.
    pub async fn state(&self, patience: Duration) -> Option<Value> {
        let request = async_nats::client::Request::new().payload(self.key.clone().into()).timeout(Some(patience));
        let answer = self.client.send_request("alpha.states".to_owned(), request).await.ok()?;
        Some(serde_json::from_slice(&answer.payload).unwrap())
    }

    /// Every answer to one request for the state, within `patience`.
    pub async fn all_states(&self, patience: Duration) -> Vec<Value> {
        let inbox = self.client.new_inbox();
        let answers = self.client.subscribe(inbox.clone()).await.unwrap();
        self.client.publish_with_reply("alpha.states", inbox, self.key.clone().into()).await.unwrap();
        let read = |answer: Message| async move { serde_json::from_slice(&answer.payload).unwrap() };
        answers.take_until(Box::pin(tokio::time::sleep(patience))).then(read).collect().await
    }

    async fn request(&self, subject: &str, body: &str) -> Value {
        let request = async_nats::client::Request::new().payload(body.to_owned().into()).timeout(Some(SOON));
        let answer = self.client.send_request(subject.to_owned(), request).await.unwrap_or_else(|error| panic!("{subject}: {error}"));
        serde_json::from_slice(&answer.payload).unwrap()
    }
}
