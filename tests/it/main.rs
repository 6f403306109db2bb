//! The one integration test binary: one file per area, real servers from `support`, tests named as sentences.
//!
//! Tests that need a program begin with `require!`; without it they say what is missing (and fail where `CI=true`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod support;

mod borrowed_rights;
mod chart;
mod cli;
mod collector;
mod collector_blame;
mod collector_edges;
mod collector_losses;
mod collector_support;
mod compose;
mod controller;
mod controller_stream;
mod controller_support;
mod controllers;
mod dead_letters;
mod diagnosis;
mod docker;
mod entries;
mod execute;
mod executor;
mod http;
mod http_bounds;
mod image;
mod instructions;
mod kubernetes;
mod layout;
mod lint;
mod nodes;
mod odd_bytes;
mod outliving;
mod permissions;
mod permissions_lost;
mod pipelines;
mod readme;
mod replies;
mod reserved;
mod scene;
mod series;
mod servers;
mod settings;
mod siege;
mod sink;
mod soak;
mod source;
mod store;
mod store_configs;
mod store_lease;
mod store_streams;
mod store_watch;
mod swaps;
mod toolbox;
mod torture;
mod transfer;
mod unfit_durables;
