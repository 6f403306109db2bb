//! Pausing a durable: the server delivers nothing of it for a while. Used by the controller while a target changes.

use super::api::{Failure, field};
use super::error::StoreError;
use super::streams::Streams;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;

impl Streams {
    /// Whether the server can pause consumers: 2.11 and later do.
    pub fn can_pause(&self) -> bool {
        self.api.client.is_server_compatible(2, 11, 0)
    }

    /// Makes the server deliver nothing of the durable for `time` from now on; an acknowledgement still counts, and what is
    /// not acknowledged is not delivered again either. Zero ends a pause. It ends by itself, too.
    pub async fn pause(&self, stream: &str, consumer: &str, time: Duration) -> Result<(), StoreError> {
        let during = |failure: Failure| failure.during(format!("pause or resume consumer {consumer} of stream {stream}"));
        let mut body = json!({});
        if !time.is_zero() {
            // By the server's clock: the own one may be another.
            let info: Value = self.api.call(&format!("CONSUMER.INFO.{stream}.{consumer}"), Value::Null).await.map_err(during)?;
            let now: Timestamp = field(&info, "/ts").map_err(during)?;
            body["pause_until"] = json!(now.saturating_add(time).unwrap_or(Timestamp::MAX));
        }
        self.api.call::<Value>(&format!("CONSUMER.PAUSE.{stream}.{consumer}"), body).await.map(|_| ()).map_err(during)
    }
}
