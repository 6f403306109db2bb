//! Tests of the core: single rules here, whole lives under faults in `simulation`.

mod rules;
mod simulation;
