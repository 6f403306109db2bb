//! The part of lint that knows MongoDB's rules: which databases, collections and time-series options can exist.
//!
//! Everything here is checked again by the server; here it gets a position and a remedy before anything is published.

use super::{Granularity, TimeSeries};
use crate::pipeline::document::shown;
use crate::pipeline::fields::{Fields, Report, Taken, nearest};
use std::time::Duration;

/// `output.mongodb.connection`, checked against the settings where they are known.
pub(super) fn connection(fields: &mut Fields<'_>, known: Option<&[String]>, report: &mut Report) -> String {
    let Some(taken) = fields.string("connection", report) else { return "default".into() };
    if let Some(known) = known
        && !known.contains(&taken.value)
    {
        let remedy = match nearest(&taken.value, known.iter().map(String::as_str)) {
            Some(name) => format!("did you mean '{name}'?"),
            None => format!("the settings have: {}", known.join(", ")),
        };
        taken.error(report, format!("the settings have no connection '{}'", shown(&taken.value)), remedy);
    }
    taken.value
}

/// `database` and `collection`.
pub(super) fn namespace(fields: &mut Fields<'_>, report: &mut Report) -> (Option<String>, Option<String>) {
    let database = fields.string("database", report);
    if let Some(taken) = &database {
        check_database(taken, report);
    }
    let collection = fields.string("collection", report);
    if let Some(taken) = &collection {
        if let Some(rule) = collection_fault(&taken.value) {
            taken.error(report, format!("'{}' is no collection that can be written to", shown(&taken.value)), rule);
        }
        let length = taken.value.len() + 1 + database.as_ref().map_or(0, |taken| taken.value.len());
        if length > 255 {
            taken.error(report, "the name is too long", "database and collection have at most 255 bytes together");
        }
    }
    (database.map(|taken| taken.value), collection.map(|taken| taken.value))
}

/// Reports a database name that MongoDB refuses, or that belongs to the server.
pub fn check_database(taken: &Taken<String>, report: &mut Report) {
    let name = &taken.value;
    if name.is_empty() || name.len() > 63 || name.contains(['/', '\\', '.', ' ', '"', '$', '*', '<', '>', ':', '|', '?', '\0']) {
        let message = format!("'{}' is no name of a database", shown(name));
        taken.error(report, message, "1 to 63 bytes, without white space and / \\ . \" $ * < > : | ?");
    } else if matches!(name.to_lowercase().as_str(), "admin" | "local" | "config") {
        taken.error(report, format!("'{name}' belongs to the server"), "use a database of your own");
    }
}

fn collection_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("a collection has a name");
    }
    if name.starts_with("system.") {
        return Some("names that begin with 'system.' belong to the server");
    }
    if name == crate::pipeline::reserved::LEDGER {
        return Some("Sluice accounts for measurements there; choose another");
    }
    if name.contains(['$', '\0']) {
        return Some("a collection's name holds no '$'");
    }
    (name.starts_with('.') || name.ends_with('.') || name.contains("..")).then_some("no '.' at the ends, nor two in a row")
}

/// `time_series`.
pub(super) fn time_series(fields: &mut Fields<'_>, report: &mut Report) -> Option<TimeSeries> {
    let taken = fields.node("time_series")?;
    let mut fields = Fields::of(taken.value, &taken.path, report);
    if !fields.given("time_field") {
        report.error(
            &taken.place,
            &fields.path_of("time_field"),
            "a time-series collection needs a time_field",
            "name the field with the date",
        );
    }
    let time_field = top_level(&mut fields, "time_field", report);
    let meta_field = top_level(&mut fields, "meta_field", report);
    if let (Some(time), Some(meta)) = (&time_field, &meta_field)
        && time.value == meta.value
    {
        meta.error(report, "meta_field is the same field as time_field", "name the field that identifies the source, or leave it out");
    }
    let words = [("seconds", Granularity::Seconds), ("minutes", Granularity::Minutes), ("hours", Granularity::Hours)];
    let granularity = fields.word("granularity", &words, report).map(|taken| taken.value);
    let expire_after = fields.duration("expire_after", Duration::from_secs(1), report);
    if let Some(taken) = &expire_after
        && taken.value.subsec_nanos() != 0
    {
        taken.error(report, "MongoDB counts whole seconds here", "write a whole number of seconds");
    }
    fields.finish(report);
    Some(TimeSeries {
        time_field: time_field.map(|taken| taken.value).unwrap_or_default(),
        meta_field: meta_field.map(|taken| taken.value),
        granularity,
        expire_after: expire_after.map(|taken| taken.value),
    })
}

/// The name of a top-level field other than `_id`.
fn top_level(fields: &mut Fields<'_>, name: &'static str, report: &mut Report) -> Option<Taken<String>> {
    let taken = fields.string(name, report)?;
    let field = &taken.value;
    if field == "_id" {
        taken.error(report, format!("{name} cannot be _id"), "name another field");
    } else if field.len() > 255 {
        taken.error(report, format!("'{}' is too long", shown(field)), "name a field of at most 255 bytes");
    } else if field.is_empty() || field.starts_with('$') || field.contains(['.', '\0']) {
        taken.error(report, format!("'{}' is no top-level field", shown(field)), "a name without '.', not beginning with '$'");
    }
    Some(taken)
}
