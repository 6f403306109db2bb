//! The misfortunes of the torture, and how often each comes. Pure: a seed makes the same plan again.

use crate::soak::{self, Kind};
use crate::support::Side;
use mongodb::bson::{Document, doc};
use rand::prelude::*;
use sluice::collector::classify::{DOCUMENT, OPERATOR, TRANSIENT};
use std::time::Duration;

/// How many `sluice run`s there are.
pub const MEMBERS: usize = 3;
/// The producers' line to NATS, each member's, and one to the database: its address is part of what a target is, and so the
/// same for all.
pub const LINES: usize = 1 + MEMBERS + 1;
/// The victims: all members, then these.
pub const NATS: usize = MEMBERS;
pub const DATABASE: usize = MEMBERS + 1;

/// What the database does instead of what it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Refuses commands with this code.
    Code(i32),
    /// Carries them out, and says that the write concern was not met, with this code.
    Concern(i32),
    /// Closes the connection.
    Close,
    /// Waits so many milliseconds first.
    Block(i32),
}

impl Failure {
    /// The fail point that does so the next `times`; `also`: to look-ups and listings, too.
    pub fn document(self, times: i32, also: bool) -> Document {
        let commands: &[&str] = if also { &["insert", "find", "listCollections", "create"] } else { &["insert"] };
        let mut data = doc! {"failCommands": commands};
        data.extend(match self {
            Self::Code(code) => doc! {"errorCode": code},
            Self::Concern(code) => doc! {"writeConcernError": {"code": code, "errmsg": "as the test wants it"}},
            Self::Close => doc! {"closeConnection": true},
            Self::Block(millis) => doc! {"blockConnection": true, "blockTimeMS": millis},
        });
        doc! {"mode": {"times": times}, "data": data}
    }

    /// Every code of the error table, and some that it does not know.
    pub fn codes() -> Vec<i32> {
        [&TRANSIENT[..], &OPERATOR, &DOCUMENT, &[1, 8, 4711, 11000]].concat()
    }

    fn draw(dice: &mut StdRng) -> Self {
        let codes = Self::codes();
        let code = codes[dice.random_range(0..codes.len())];
        match dice.random_range(0..6) {
            0..3 => Self::Code(code),
            3 => Self::Concern(code),
            4 => Self::Close,
            _ => Self::Block(dice.random_range(10..4_000)),
        }
    }
}

/// One misfortune.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Kills a process, and starts it again after a while.
    Kill(usize, Duration),
    /// Stops a process where it stands, for a while.
    Sleep(usize, Duration),
    /// Cuts a line, for a while.
    Cut(usize, Duration),
    /// Lets nothing through a line, for a while.
    Stall(usize, Duration),
    /// Lets no answer through a line, for a while.
    StallReplies(usize, Duration),
    /// Breaks a line off after so many bytes from one side.
    Break(usize, Side, u64),
    /// Lets the database fail so many times; whether at look-ups and listings, too.
    Fail(Failure, i32, bool),
    /// Resets the durable of a pipeline.
    Reset(usize),
    /// Deletes the durable of a pipeline.
    Delete(usize),
}

/// How often each of them comes, for so many pipelines.
pub fn kinds(pipelines: usize) -> Vec<Kind<Deed>> {
    let seconds = Duration::from_secs_f64;
    let line = |dice: &mut StdRng| dice.random_range(0..LINES);
    vec![
        Kind::new(seconds(3.0), |dice| Deed::Kill(dice.random_range(0..MEMBERS), soak::millis(dice, 0..1_500))),
        Kind::new(seconds(8.0), |dice| Deed::Kill(NATS, soak::millis(dice, 0..1_500))),
        Kind::new(seconds(8.0), |dice| Deed::Kill(DATABASE, soak::millis(dice, 0..1_500))),
        // Longer than a lease now and then.
        Kind::new(seconds(7.0), |dice| Deed::Sleep(dice.random_range(0..MEMBERS), soak::millis(dice, 200..12_000))),
        Kind::new(seconds(13.0), |dice| Deed::Sleep(NATS, soak::millis(dice, 50..3_000))),
        Kind::new(seconds(11.0), |dice| Deed::Sleep(DATABASE, soak::millis(dice, 50..4_000))),
        Kind::new(seconds(3.0), move |dice| Deed::Cut(line(dice), soak::millis(dice, 0..1_000))),
        Kind::new(seconds(4.0), move |dice| Deed::Stall(line(dice), soak::millis(dice, 50..5_000))),
        Kind::new(seconds(4.0), move |dice| Deed::StallReplies(line(dice), soak::millis(dice, 50..5_000))),
        Kind::new(seconds(0.8), move |dice| {
            let side = if dice.random() { Side::Client } else { Side::Server };
            // Within the next frame as likely as within the next batch.
            Deed::Break(line(dice), side, 1 << dice.random_range(0..18) | dice.random_range(0..64))
        }),
        Kind::new(seconds(2.5), |dice| {
            let failure = Failure::draw(dice);
            Deed::Fail(failure, dice.random_range(1..4), dice.random_range(0..4) == 0)
        }),
        Kind::new(seconds(7.0), move |dice| Deed::Reset(dice.random_range(0..pipelines))),
        Kind::new(seconds(13.0), move |dice| Deed::Delete(dice.random_range(0..pipelines))),
    ]
}
