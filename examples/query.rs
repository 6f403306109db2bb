//! What arrived in MongoDB: how many documents a collection holds, and its newest ones as a table.
//!
//! `MONGO_URL=… DATABASE=demo cargo run --example query readings metrics`; with `--count` the bare number alone. The demo's
//! own query, and a small example of reading what Sluice wrote.

#![allow(clippy::print_stdout)]

use anyhow::{Context, Result};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use futures_util::TryStreamExt;
use mongodb::{
    Client, Collection,
    bson::{Bson, Document, doc},
};

/// How many documents are shown.
const SHOWN: i64 = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let url = std::env::var("MONGO_URL").context("MONGO_URL, the connection string, is not set")?;
    let database = std::env::var("DATABASE").unwrap_or_else(|_| "demo".into());
    let database = Client::with_uri_str(url).await?.database(&database);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let count_only = arguments.iter().any(|argument| argument == "--count");
    for name in arguments.iter().filter(|argument| !argument.starts_with("--")) {
        let collection = database.collection(name);
        let count = collection.count_documents(doc! {}).await?;
        if count_only {
            println!("{count}");
        } else {
            println!("{name}: {count} documents, the newest:\n{}", newest(&collection).await?);
        }
    }
    Ok(())
}

async fn newest(collection: &Collection<Document>) -> Result<Table> {
    let documents: Vec<Document> = collection.find(doc! {}).sort(doc! {"at": -1}).limit(SHOWN).await?.try_collect().await?;
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    if let Some(first) = documents.first() {
        table.set_header(first.keys());
    }
    for document in &documents {
        table.add_row(document.values().map(text));
    }
    Ok(table)
}

fn text(value: &Bson) -> String {
    match value {
        Bson::DateTime(at) => at.try_to_rfc3339_string().unwrap_or_else(|_| at.to_string()),
        Bson::String(text) => text.clone(),
        Bson::ObjectId(id) => id.to_hex(),
        other => other.to_string(),
    }
}
