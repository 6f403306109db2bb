//! `sluice schema entry|config|settings|status`: JSON Schemas, for editors and for programs. Needs no settings.
//!
//! Entry, config and settings are read by parsers of our own, which say more than a schema can; their schemas are files
//! beside this one, and tests here hold them to the parsers: what the parsers know is what they name, field by field. The
//! status is written as serde writes it, so that its schema is made from the types themselves.

#[cfg(test)]
mod tests;

use super::failure::Failure;
use super::output::Output;
use crate::pipeline::status::PipelineStatus;
use clap::{Args, ValueEnum};
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::Value;

const ENTRY: &str = include_str!("entry.json");
const CONFIG: &str = include_str!("config.json");
const SETTINGS: &str = include_str!("settings.json");

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// What to describe
    #[arg(value_enum)]
    of: Of,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Of {
    /// The JSON value under a pipeline's key
    Entry,
    /// A pipeline's config, in YAML
    Config,
    /// The settings file of a process, in YAML
    Settings,
    /// The status document, as it lies in its bucket; the HTTP API adds `remedy` to each condition
    Status,
}

impl Of {
    fn schema(self) -> Result<Value, serde_json::Error> {
        match self {
            Self::Entry => serde_json::from_str(ENTRY),
            Self::Config => serde_json::from_str(CONFIG),
            Self::Settings => serde_json::from_str(SETTINGS),
            Self::Status => Ok(status()),
        }
    }
}

/// `sluice schema`.
pub fn schema(args: &SchemaArgs, out: &Output) -> Result<(), Failure> {
    out.json(&args.of.schema().map_err(std::io::Error::from)?)
}

/// What this release writes, and no other fields.
fn status() -> Value {
    let closed = RecursiveTransform(|schema: &mut schemars::Schema| {
        if schema.get("properties").is_some() {
            schema.insert("additionalProperties".into(), false.into());
        }
    });
    let settings = SchemaSettings::draft2020_12().for_serialize().with_transform(closed);
    settings.into_generator().into_root_schema_for::<PipelineStatus>().to_value()
}
