//! Creates a collection where it is missing, and checks its kind.
//!
//! Existing collections are never changed: one of another kind, or a time-series collection with other fields, is
//! reported with what it is and what the config says.

use super::failure::{CommandFailure, FailureKind};
use super::listing::{Age, Fields, Found, Listings};
use super::{OpenError, connect::bounded, remedy};
use crate::pipeline::config::TimeSeries;
use bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::Database;

/// The collection exists.
const NAMESPACE_EXISTS: i32 = 48;
/// Not allowed.
pub(super) const UNAUTHORIZED: i32 = 13;

/// `age`: how old what is known of the collection may be. What commands need room for is boxed: a thousand that wait for the
/// listing of another have none.
pub(super) async fn ensure(
    database: &Database,
    listings: &Listings,
    name: &str,
    wanted: Option<&TimeSeries>,
    age: Age,
) -> Result<(), OpenError> {
    if let Some(found) = listings.look(database, name, age).await? {
        return check(name, &found, wanted);
    }
    match Box::pin(bounded(database.run_command(create_command(name, wanted)))).await {
        // It is as we said.
        Ok(_) if wanted.is_none() => return Ok(()),
        Ok(_) => {}
        // Somebody else made it meanwhile, or we may not list what we do not own.
        Err(failure) if failure.code == Some(NAMESPACE_EXISTS) => {}
        Err(failure) if wanted.is_some() && failure.code.is_some_and(remedy::has_no_series) => {
            let code = failure.code.map_or_else(String::new, |code| format!(" (code {code})"));
            return Err(OpenError::NoSeries(format!("{}{code}", failure.message)));
        }
        Err(failure) => return Err(failure.into()),
    }
    // By its name: what others know may be older than it.
    match Box::pin(find(database, name)).await? {
        Some(found) => check(name, &found, wanted),
        None => Err(CommandFailure::new(FailureKind::Other, format!("the collection '{name}' was created and is not there")).into()),
    }
}

/// What the collection is, by its name.
pub(super) async fn find(database: &Database, name: &str) -> Result<Option<Found>, CommandFailure> {
    let Some(entry) = look(database, name).await? else { return Ok(None) };
    let entry = RawDocumentBuf::try_from(&entry).map_err(|error| CommandFailure::new(FailureKind::Other, error.to_string()))?;
    Ok(Some(Found::read(&entry)))
}

/// The collection as `listCollections` shows it.
pub(super) async fn look(database: &Database, name: &str) -> Result<Option<Document>, CommandFailure> {
    let command = doc! {"listCollections": 1, "filter": {"name": name}};
    let reply = match bounded(database.run_command(command.clone())).await {
        // A user who may only write into some collections may list those by name and kind.
        Err(failure) if failure.code == Some(UNAUTHORIZED) => {
            let mut command = command;
            command.extend(doc! {"nameOnly": true, "authorizedCollections": true});
            bounded(database.run_command(command)).await?
        }
        reply => reply?,
    };
    let batch = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    let batch = batch.map_err(|_| CommandFailure::new(FailureKind::Other, "listCollections gave no batch"))?;
    // The filter is the server's business; the name is checked here again.
    Ok(batch.iter().filter_map(Bson::as_document).find(|found| found.get_str("name").is_ok_and(|is| is == name)).cloned())
}

fn create_command(name: &str, wanted: Option<&TimeSeries>) -> Document {
    let mut command = doc! {"create": name};
    if let Some(wanted) = wanted {
        let mut series = doc! {"timeField": &wanted.time_field};
        if let Some(field) = &wanted.meta_field {
            series.insert("metaField", field);
        }
        if let Some(granularity) = wanted.granularity {
            series.insert("granularity", granularity.as_str());
        }
        command.insert("timeseries", series);
        if let Some(age) = wanted.expire_after {
            command.insert("expireAfterSeconds", i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        }
    }
    command
}

fn check(name: &str, found: &Found, wanted: Option<&TimeSeries>) -> Result<(), OpenError> {
    let is = match (found, wanted) {
        (Found::Normal, None) => return Ok(()),
        (Found::TimeSeries(fields), Some(wanted)) => return check_fields(name, fields.as_ref(), wanted),
        (Found::Normal, _) => "a normal collection",
        (Found::TimeSeries(_), _) => "a time-series collection",
        (Found::View, _) => "a view",
        (Found::Unknown, _) => "of a kind that is not known here",
    };
    let wanted = if wanted.is_some() { "a time-series collection" } else { "a normal collection" };
    Err(OpenError::KindDiffers(format!("the collection '{name}' is {is}, and the config says {wanted}")))
}

/// `time_field` and `meta_field` cannot be changed afterwards; without options (a listing by name only) nothing is said.
fn check_fields(name: &str, found: Option<&Fields>, wanted: &TimeSeries) -> Result<(), OpenError> {
    let Some(Fields { time_field, meta_field }) = found else { return Ok(()) };
    let fields = [
        ("time_field", time_field.as_deref(), Some(wanted.time_field.as_str())),
        ("meta_field", meta_field.as_deref(), wanted.meta_field.as_deref()),
    ];
    for (field, is, wanted) in fields {
        if is != wanted {
            let quoted = |value: Option<&str>| value.map_or("none".to_owned(), |value| format!("'{value}'"));
            return Err(OpenError::KindDiffers(format!(
                "the time-series collection '{name}' has {field} {}, and the config says {}",
                quoted(is),
                quoted(wanted)
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::config::Granularity;
    use std::time::Duration;

    fn series() -> TimeSeries {
        TimeSeries {
            time_field: "ts".into(),
            meta_field: Some("device".into()),
            granularity: Some(Granularity::Minutes),
            expire_after: Some(Duration::from_secs(60)),
        }
    }

    #[test]
    fn a_time_series_collection_is_created_with_its_options() {
        assert_eq!(
            create_command("m", Some(&series())),
            doc! {
                "create": "m",
                "timeseries": {"timeField": "ts", "metaField": "device", "granularity": "minutes"},
                "expireAfterSeconds": 60_i64,
            }
        );
        assert_eq!(create_command("m", None), doc! {"create": "m"});
    }

    #[test]
    fn another_kind_is_reported_with_both() {
        let said = |found: Document, wanted: Option<&TimeSeries>| {
            let found = Found::read(&RawDocumentBuf::try_from(&found).unwrap());
            check("m", &found, wanted).map_err(|error| error.to_string())
        };
        let kind = "the collection 'm' is a view, and the config says a normal collection";
        assert_eq!(said(doc! {"type": "view"}, None), Err(kind.into()));
        let kind = "the collection 'm' is a normal collection, and the config says a time-series collection";
        assert_eq!(said(doc! {"type": "collection"}, Some(&series())), Err(kind.into()));
        let found = doc! {"type": "timeseries", "options": {"timeseries": {"timeField": "ts"}}};
        let field = "the time-series collection 'm' has meta_field none, and the config says 'device'";
        assert_eq!(said(found, Some(&series())), Err(field.into()));
        assert_eq!(said(doc! {"type": "timeseries"}, Some(&series())), Ok(()));
    }
}
