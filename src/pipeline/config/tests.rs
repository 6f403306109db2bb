//! Lint over every rule, as properties and single cases.
