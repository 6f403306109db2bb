//! One contender's work: a stream and a durable of its own, filled before the clock runs, and the check afterwards.

use super::servers::Servers;
use anyhow::{Context, Result, ensure};
use async_nats::jetstream::{self, consumer, stream};
use futures_util::{TryStreamExt, future::try_join_all};
use mongodb::bson::{Document, RawDocumentBuf, doc, spec::BinarySubtype};
use std::time::{Duration, Instant};

/// The database that all contenders write to.
pub const DATABASE: &str = "bench";
/// The pipeline's id; stream and subject follow from it and the namespace.
pub const PIPELINE: &str = "readings";
/// The durable.
pub const CONSUMER: &str = "default";

/// The fields of a measurement's date and source.
pub const TIME_FIELD: &str = "at";
pub const META_FIELD: &str = "device";

/// A filled stream and where its documents go.
pub struct Job {
    pub namespace: String,
    pub stream: String,
    pub subject: String,
    pub collection: String,
    pub count: u64,
    /// Whether the collection holds measurements.
    pub time_series: bool,
    jetstream: jetstream::Context,
    mongo: mongodb::Client,
}

impl Job {
    pub async fn prepare(servers: &Servers, contender: &str, round: usize, size: usize, (count, time_series): (u64, bool)) -> Result<Self> {
        let clean: String = contender.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(20).collect();
        let namespace = format!("b{round}_{clean}");
        let stream = format!("{namespace}_{PIPELINE}");
        let subject = format!("{namespace}.{PIPELINE}");
        let jetstream = jetstream::new(async_nats::connect(&servers.nats_url).await?);
        let mongo = mongodb::Client::with_uri_str(&servers.mongo_url).await?;
        let job = Self { collection: namespace.clone(), namespace, stream, subject, count, time_series, jetstream, mongo };
        job.create().await?;
        job.fill(size).await?;
        Ok(job)
    }

    async fn create(&self) -> Result<()> {
        let config = stream::Config {
            name: self.stream.clone(),
            subjects: vec![self.subject.clone()],
            retention: stream::RetentionPolicy::WorkQueue,
            discard: stream::DiscardPolicy::New,
            ..Default::default()
        };
        let stream = self.jetstream.create_stream(config).await?;
        let config = consumer::pull::Config {
            durable_name: Some(CONSUMER.into()),
            ack_wait: Duration::from_secs(30),
            max_ack_pending: 10_000,
            max_deliver: -1,
            ..Default::default()
        };
        stream.create_consumer(config).await?;
        if self.time_series {
            let options = doc! {"timeField": TIME_FIELD, "metaField": META_FIELD};
            self.mongo.database(DATABASE).run_command(doc! {"create": &self.collection, "timeseries": options}).await?;
        }
        Ok(())
    }

    async fn fill(&self, size: usize) -> Result<()> {
        const WINDOW: u64 = 2000;
        for start in (0..self.count).step_by(WINDOW as usize) {
            let mut acks = Vec::with_capacity(WINDOW as usize);
            for n in start..(start + WINDOW).min(self.count) {
                acks.push(self.jetstream.publish(self.subject.clone(), document(n, size)?.into()).await?);
            }
            try_join_all(acks.into_iter().map(IntoFuture::into_future)).await?;
        }
        Ok(())
    }

    /// Messages that are not acknowledged yet.
    pub async fn remaining(&self) -> Result<u64> {
        Ok(self.jetstream.get_stream(&self.stream).await?.cached_info().state.messages)
    }

    /// Every document is in the collection exactly once.
    pub async fn check(&self) -> Result<()> {
        let collection = self.mongo.database(DATABASE).collection::<RawDocumentBuf>(&self.collection);
        let mut seen = vec![false; usize::try_from(self.count)?];
        let mut cursor = collection.find(doc! {}).projection(doc! {"n": 1, "_id": 0}).batch_size(20_000).await?;
        while let Some(document) = cursor.try_next().await? {
            let n = usize::try_from(document.get_i64("n")?)?;
            ensure!(!std::mem::replace(seen.get_mut(n).context("a document that nobody sent")?, true), "document {n} is there twice");
        }
        let missing = seen.iter().filter(|seen| !**seen).count();
        ensure!(missing == 0, "{missing} of {} documents are not in MongoDB", self.count);
        Ok(())
    }

    pub async fn clean_up(self) -> Result<()> {
        self.jetstream.delete_stream(&self.stream).await?;
        self.mongo.database(DATABASE).collection::<Document>(&self.collection).drop().await?;
        // Whatever the servers still do about this contender must not be the next one's.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// A reading of `size` bytes, filled up with bytes that no compression shrinks to nothing.
fn document(n: u64, size: usize) -> Result<Vec<u8>> {
    let mut document = doc! {
        TIME_FIELD: mongodb::bson::DateTime::from_millis(1_780_000_000_000 + i64::try_from(n)?),
        META_FIELD: format!("device-{:03}", n % 250),
        "n": i64::try_from(n)?,
        "value": (n as f64).sin(),
    };
    let missing = size.saturating_sub(document.to_vec()?.len() + "fill".len() + 7);
    let bytes = (0..missing as u64).map(|i| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left((i % 64) as u32) ^ i) as u8).collect();
    document.insert("fill", mongodb::bson::Binary { subtype: BinarySubtype::Generic, bytes });
    Ok(document.to_vec()?)
}
