//! Messages that say of themselves that more was published than came: compared with the stream before anything becomes of
//! them. Part of the driver.
//!
//! What always holds: of such a message nothing is stored, buried or settled before the stream was seen to hold the very
//! bytes that were delivered. What differs, or cannot be compared, is dropped without a word, and is delivered again once its lease
//! has ended. A publisher may write the header itself: that costs a round trip a message, and nothing else.

use super::Driver;
use super::work::{self, Done};
use crate::collector::core::Event;
use crate::collector::source::{Delivery, Inspector, Original, SourceError};
use futures_util::{StreamExt, stream};
use std::time::Instant;

/// Questions that are under way at once.
const AT_ONCE: usize = 32;

/// Those that are being compared, as budgets and pulls count them.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Suspects {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// What came of a comparison.
#[derive(Debug)]
pub(super) struct Compared {
    of: Suspects,
    /// Those that are as they were published.
    whole: Vec<Delivery>,
    /// Whether one was found that is not.
    altered: bool,
    error: Option<SourceError>,
}

impl Driver {
    /// Takes them out of `deliveries`, to come back once they are compared.
    pub(super) fn put_suspects_aside(&mut self, deliveries: &mut Vec<Delivery>) {
        if !deliveries.iter().any(Delivery::claims_more) {
            return;
        }
        let suspects: Vec<_> = deliveries.extract_if(.., |delivery| delivery.claims_more()).collect();
        let of = Suspects { messages: suspects.len() as u64, bytes: suspects.iter().map(|delivery| delivery.bytes).sum() };
        self.suspects.messages += of.messages;
        self.suspects.bytes += of.bytes;
        // Mostly it is the durable.
        self.supervision.ask_soon();
        let question = self.source.inspector();
        let nothing = move || Done::Compared(Compared { of, whole: Vec::new(), altered: false, error: None });
        work::begin(&mut self.work, async move { Done::Compared(compare(question, suspects, of).await) }, nothing);
    }

    pub(super) fn compared(&mut self, compared: Compared) {
        let Compared { of, whole, altered, error } = compared;
        self.suspects.messages = self.suspects.messages.saturating_sub(of.messages);
        self.suspects.bytes = self.suspects.bytes.saturating_sub(of.bytes);
        let whole_bytes = whole.iter().map(|delivery| delivery.bytes).sum::<u64>();
        self.deps.budget.give(of.bytes.saturating_sub(whole_bytes));
        if altered {
            tracing::warn!("messages came without what was published in them, and are not settled");
            self.supervision.ask_at_once();
        }
        if let Some(error) = error {
            self.source_trouble(&error);
            self.supervision.ask_soon();
        }
        self.early.extend(whole);
        self.drop_late();
        if self.identities.is_none() || self.early.is_empty() {
            self.feed(Event::Tick);
            return;
        }
        let early = std::mem::take(&mut self.early);
        let pending = self.pending;
        self.take_in_whole(early, pending);
    }
}

async fn compare(question: Inspector, suspects: Vec<Delivery>, of: Suspects) -> Compared {
    let until = Instant::now();
    let asked = suspects.into_iter().map(|delivery| {
        let question = question.clone();
        async move {
            let answer = question.original(delivery.sequence, delivery.published_ns, &delivery.message.payload).await;
            (delivery, answer)
        }
    });
    let mut answers = stream::iter(asked).buffered(AT_ONCE);
    let mut compared = Compared { of, whole: Vec::new(), altered: false, error: None };
    while let Some((delivery, answer)) = answers.next().await {
        match answer {
            Ok(Original::Same) => compared.whole.push(delivery),
            // Settled by somebody else meanwhile.
            Ok(Original::Gone) => {}
            // What came with it is not asked about one by one: it comes again in any case.
            Ok(Original::Altered) => {
                compared.altered = true;
                break;
            }
            Err(error) => {
                compared.error = Some(error);
                break;
            }
        }
    }
    tracing::debug!(took = ?until.elapsed(), whole = compared.whole.len(), of = of.messages, "compared with the stream");
    compared
}
