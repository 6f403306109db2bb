//! A producer: registers a pipeline and sends documents to it, each acknowledged by JetStream.
//!
//! `NATS_URL=… NAMESPACE=alpha cargo run --example produce --no-default-features --features transfer`. What the README
//! shows is this file's middle.

#![allow(clippy::print_stdout)]

use std::error::Error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let var = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let client = async_nats::connect(var("NATS_URL", "nats://127.0.0.1:4222")).await?;
    let sent = produce(client, &var("NAMESPACE", "sluice")).await?;
    println!("{} documents sent", sent.acknowledged);
    Ok(())
}

use serde::Serialize;
use sluice::transfer::{Message, Registration, Sent, Transfer};

#[derive(Serialize)]
struct Reading {
    device: String,
    celsius: f64,
}

async fn produce(client: async_nats::Client, namespace: &str) -> Result<Sent, Box<dyn Error>> {
    let transfer = Transfer::new(namespace, client).await?;
    transfer.add(&Registration { key: "readings".into(), collection: "readings".into(), ..Registration::default() }).await?;

    // One, and wait until JetStream has it.
    transfer.send("readings", &Reading { device: "a".into(), celsius: 21.5 }).await?;

    // Many at a time. The id lets you send them again after a failure: each is stored once.
    let readings = (0..1000).map(|n| Reading { device: format!("d{n}"), celsius: f64::from(n) / 10.0 });
    let messages = readings.map(|reading| Ok(Message::new(&reading)?.with_id(format!("2026-01-01/{}", reading.device))));
    let messages: Vec<Message> = messages.collect::<Result<_, Box<dyn Error>>>()?;
    let sent = transfer.send_many("readings", messages).await?;
    for (position, error) in &sent.failures {
        println!("reading {position}: {error}");
    }
    Ok(sent)
}
