//! Creates a collection where it is missing, and checks its kind.

use super::OpenError;
use crate::pipeline::config::TimeSeries;

pub(super) async fn ensure(database: &mongodb::Database, name: &str, time_series: Option<&TimeSeries>) -> Result<(), OpenError> {
    let _ = (database, name, time_series);
    todo!()
}
