//! Tests of the core: single rules here, whole lives under faults in `simulation`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod blame;
mod bounds;
mod moved;
mod rules;
mod series;
mod simulation;
