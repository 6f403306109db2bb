//! The NATS client `async-nats` with [`lenient-parser.patch`](../lenient-parser.patch).
//!
//! A NATS server stores and delivers whatever bytes a publisher sends as headers, or as a subject. The client, in the newest
//! release (0.51.0), answers those that it does not understand with an I/O error, which breaks the connection that everything
//! shares, or with a panic; the server delivers them again on the next one, for ever. With the patch nothing within a correct
//! frame is an error: what is readable is read, `HeaderMap::unreadable` has the rest as it came, and text that is not UTF-8
//! has U+FFFD and two hexadecimal digits in place of each byte that is not. A status counts as the server's only where it can
//! be, so that a stored message which has one is not taken for a word about the request that it answers.
//!
//! Why a patch: the parser is private, and the client connects its sockets itself, so nothing can stand between. A relay on
//! loopback would lend this process's identity to every other local process. Why in this form: of upstream only our own
//! difference is kept here. Upstream's source is a locked, verified dependency like any other; `build.rs` finds it, copies it,
//! applies the patch line by line or fails, and the line below compiles the result. A plain `cargo build` does it all.
//!
//! A new release of upstream: put its version into `Cargo.toml` (twice) and make the patch anew; where it has the change,
//! remove this crate. The patch is against upstream's `src` and can be offered there as it is.

// Nothing of it is ours to improve.
#![allow(warnings, clippy::all, rustdoc::all)]

include!(concat!(env!("OUT_DIR"), "/async_nats/lib.rs"));
