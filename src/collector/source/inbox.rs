//! One subscription that takes in everything: messages, status messages of requests, replies to acknowledgements.
//!
//! Messages keep the subject that they were published to; what is addressed to the inbox itself says by its subject which
//! request (`….p.{id}`) or which call (`….r.{id}`) it belongs to.

use super::leaving::Leaving;
use super::link::Link;
use super::requests::Requests;
use super::status::{self, Meaning};
use super::tracker::{Kind, Tracker};
use super::{AckSubject, Delivery, SourceError, SourceErrorKind, SourceEvent};
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use futures_util::Stream;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::coop;
use tokio::time::Sleep;

/// How old the last look into the inbox may get while requests are out: it bounds how much of a lease is given away. The
/// heartbeats of the requests are looks, too, and come more often.
const LOOK: Duration = Duration::from_secs(8);
/// A timer that is later than this tells of a process that stood still.
const STALL: Duration = Duration::from_millis(250);

/// What the wait of [`Inbox::next`] ended with.
enum Waited {
    Found(Option<SourceEvent>),
    /// Whether the link still watches the connection.
    Changed(bool),
    Time,
}

/// The inbox of one source.
#[derive(Debug)]
pub(super) struct Inbox {
    subscription: Subscriber,
    /// With the final dot.
    prefix: String,
    link: Arc<Link>,
    connects: watch::Receiver<u64>,
    count: u64,
    /// How many messages the subscription has brought, and on which connection it was made.
    taken: u64,
    opened_on: u64,
    /// The subscription that is being given up.
    leaving: Option<Leaving>,
    pub(super) requests: Requests,
    tracker: Tracker,
    next_id: u64,
    /// Whatever is taken from the inbox now was delivered after this moment.
    floor: Instant,
    /// When the inbox was last found empty.
    looked: Instant,
    /// Events found while looking for others.
    found: VecDeque<SourceEvent>,
    closed: bool,
    /// Wakes no later than anything is due; moved only where it has to be earlier.
    timer: Pin<Box<Sleep>>,
    /// What acknowledgement subjects begin with, once one was seen.
    front: Option<Box<str>>,
    /// The vector of the next deliveries.
    spare: Vec<Delivery>,
}

impl Inbox {
    pub(super) async fn open(client: &Client) -> Result<Self, SourceError> {
        let now = Instant::now();
        let link = Link::of(client);
        let (prefix, subscription) = subscribe(client).await?;
        Ok(Self {
            subscription,
            prefix,
            connects: link.connects(),
            count: link.count(),
            taken: 0,
            opened_on: link.count(),
            leaving: None,
            link,
            requests: Requests::default(),
            tracker: Tracker::default(),
            next_id: 0,
            floor: now,
            looked: now,
            found: VecDeque::new(),
            closed: false,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            front: None,
            spare: Vec::new(),
        })
    }

    /// Whether this is still the connection that the inbox knows: if not, what is held may be of another stream.
    pub(super) fn current(&self) -> bool {
        self.link.count() == self.count
    }

    /// Whether markers come back.
    pub(super) fn mute(&self) -> bool {
        self.link.mute()
    }

    pub(super) fn outstanding(&self) -> u64 {
        self.requests.outstanding()
    }

    /// The reply subject of a request that is about to be sent.
    pub(super) fn request(&mut self, batch: u64, heartbeat: Duration) -> Subject {
        self.next_id += 1;
        self.requests.opened(self.next_id, batch, heartbeat, Instant::now());
        format!("{}p.{}", self.prefix, self.next_id).into()
    }

    /// The request was not sent after all.
    pub(super) fn withdraw(&mut self, reply: &Subject) {
        if let Some((_, id)) = self.address(reply) {
            self.requests.ended(id, None);
        }
    }

    /// Takes the interest in what the requests may still bring away; what comes later goes to a new inbox. See
    /// [`Leaving`].
    pub(super) async fn leave(&mut self, client: &Client) -> Result<(), SourceError> {
        let (prefix, subscription) = subscribe(client).await?;
        let old = (std::mem::replace(&mut self.prefix, prefix), std::mem::replace(&mut self.subscription, subscription));
        let same = self.opened_on == self.count;
        let taken = std::mem::take(&mut self.taken);
        self.opened_on = self.link.count();
        self.leaving = Leaving::begin(client, old, same.then_some(taken)).await?;
        if self.leaving.is_none() {
            self.give_up();
        }
        Ok(())
    }

    /// No request is expected to bring anything any more.
    pub(super) fn give_up(&mut self) {
        self.leaving = None;
        self.requests.clear();
        self.found.push_back(SourceEvent::PullEnded { outstanding: 0 });
    }

    /// The reply subject of acknowledgements or renewals that are about to be sent.
    pub(super) fn track(&mut self, kind: Kind, token: u64, frames: (usize, usize)) -> Subject {
        self.next_id += 1;
        self.tracker.start(self.next_id, kind, token, frames, Instant::now());
        format!("{}r.{}", self.prefix, self.next_id).into()
    }

    /// They were not sent after all.
    pub(super) fn untrack(&mut self, reply: &Subject) {
        if let Some((_, id)) = self.address(reply) {
            self.tracker.forget(id);
        }
    }

    pub(super) async fn next(&mut self, limit: usize) -> SourceEvent {
        // The inbox is read past the scheduler's budget, whose end looks like an empty inbox; so the turn of the others is
        // granted here, before anything is taken.
        coop::consume_budget().await;
        loop {
            self.reconnected();
            if let Some(event) = self.found.pop_front() {
                return event;
            }
            if let Some(event) = self.tracker.finished(Instant::now()) {
                return event;
            }
            // What lies ready is taken without the cost of waiting, and without asking to be woken: the caller may want to
            // rest first.
            match coop::unconstrained(std::future::poll_fn(|_| Poll::Ready(self.poll(&mut Context::from_waker(Waker::noop()), limit))))
                .await
            {
                Poll::Ready(Some(event)) => return event,
                Poll::Ready(None) => continue,
                Poll::Pending => {}
            }
            let wake = self.wake().into();
            if wake < self.timer.deadline() || self.timer.is_elapsed() {
                self.timer.as_mut().reset(wake);
            }
            let (closed, mut connects) = (self.closed, self.connects.clone());
            let mut changed = std::pin::pin!(connects.changed());
            let waited = coop::unconstrained(std::future::poll_fn(|cx| {
                if let Poll::Ready(event) = self.poll(cx, limit) {
                    return Poll::Ready(Waited::Found(event));
                }
                if closed {
                    return Poll::Pending;
                }
                if let Poll::Ready(changed) = changed.as_mut().poll(cx) {
                    return Poll::Ready(Waited::Changed(changed.is_ok()));
                }
                self.timer.as_mut().poll(cx).map(|()| Waited::Time)
            }));
            match waited.await {
                Waited::Found(Some(event)) => return event,
                Waited::Found(None) => continue,
                Waited::Changed(true) => self.connects.mark_unchanged(),
                // The link ends with the client only, and so does the subscription.
                Waited::Changed(false) => self.close(),
                Waited::Time => {}
            }
            if let Some(event) = self.silence() {
                return event;
            }
        }
    }

    /// The time of the next thing to do without a message.
    fn wake(&self) -> Instant {
        let look = self.looked + if self.requests.outstanding() > 0 { LOOK } else { 30 * LOOK };
        let leaving = self.leaving.as_ref().map(Leaving::deadline);
        [self.requests.deadline(), self.tracker.deadline(), leaving].into_iter().flatten().fold(look, Instant::min)
    }

    /// Takes what lies ready. `None`: nothing for the caller, look again.
    fn poll(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<Option<SourceEvent>> {
        if self.closed {
            return Poll::Pending;
        }
        // Read before the inbox is found empty: a marker that comes between must not vouch for what came before it.
        let floor = self.link.floor();
        let mut deliveries = std::mem::take(&mut self.spare);
        let mut any = false;
        while let Some(leaving) = &mut self.leaving {
            match leaving.poll(cx) {
                Poll::Ready(Some(message)) => deliveries.extend(self.delivery(message)),
                Poll::Ready(None) => self.give_up(),
                Poll::Pending => break,
            }
        }
        while deliveries.len() < limit && self.found.is_empty() {
            match Pin::new(&mut self.subscription).poll_next(cx) {
                Poll::Ready(Some(message)) => {
                    any = true;
                    // What is addressed to the inbox itself asks for no reply. The subject of the others is not looked at: it
                    // lies where this processor has not been yet.
                    if message.reply.is_some() {
                        if let Some(delivery) = self.delivery(message) {
                            deliveries.push(delivery);
                        }
                        continue;
                    }
                    self.taken += 1;
                    match self.address(&message.subject) {
                        Some(('r', id)) => {
                            let sent = self.tracker.answered(id, message.status != Some(StatusCode::NO_RESPONDERS));
                            self.floor = sent.map_or(self.floor, |sent| self.floor.max(sent));
                        }
                        Some((_, id)) => self.status(id, &message),
                        None => {}
                    }
                }
                Poll::Ready(None) => {
                    self.close();
                    break;
                }
                Poll::Pending => {
                    self.floor = self.floor.max(floor);
                    self.looked = Instant::now();
                    break;
                }
            }
        }
        if !deliveries.is_empty() {
            self.taken += deliveries.len() as u64;
            self.requests.brought(deliveries.len() as u64, Instant::now());
            return Poll::Ready(Some(SourceEvent::Delivered(deliveries)));
        }
        self.spare = deliveries;
        // Statuses and replies are turned into events by the caller's loop.
        if any || !self.found.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    }

    /// What an address within the inbox stands for.
    fn address(&self, subject: &str) -> Option<(char, u64)> {
        let (kind, id) = subject.strip_prefix(&self.prefix)?.split_once('.')?;
        Some((kind.chars().next()?, id.parse().ok()?))
    }

    fn delivery(&mut self, message: Message) -> Option<Delivery> {
        let reply = message.reply.as_deref()?;
        let (ack, whole) = match self.front.as_deref().and_then(|front| AckSubject::after(front, reply)) {
            Some(ack) => (ack, true),
            None => {
                let (ack, front) = AckSubject::read(reply)?;
                if self.front.is_none() {
                    self.front = front.and_then(|front| reply.get(..front)).map(Box::from);
                }
                (ack, front.is_some())
            }
        };
        Some(Delivery {
            sequence: ack.stream_sequence,
            consumer_sequence: ack.consumer_sequence,
            published_ns: ack.published_ns,
            delivered: ack.delivered,
            pending: ack.pending,
            bytes: message.length as u64,
            message: message.into(),
            reply_can_be_made: whole,
            lease_from: self.floor,
        })
    }

    /// The acknowledgement subject of a delivery, made from its parts.
    pub(super) fn reply(&self, delivery: &Delivery) -> Option<Subject> {
        let Delivery { sequence, published_ns, delivered, consumer_sequence, pending, .. } = *delivery;
        let ack = AckSubject { delivered, stream_sequence: sequence, consumer_sequence, published_ns, pending };
        Some(ack.subject(self.front.as_deref()?).into())
    }

    /// Keeps the memory of a vector while more is on its way.
    pub(super) fn recycle(&mut self, mut deliveries: Vec<Delivery>) {
        deliveries.clear();
        self.spare = if self.requests.outstanding() > 256 { deliveries } else { Vec::new() };
    }

    fn status(&mut self, id: u64, message: &Message) {
        let Some(code) = message.status else { return };
        let meaning = status::read(code, message.description.as_deref());
        if meaning == Meaning::Heartbeat {
            return self.requests.heard(Instant::now());
        }
        let unused = message.headers.as_ref().and_then(|headers| headers.get("Nats-Pending-Messages"));
        let unused = unused.and_then(|value| value.as_str().parse().ok());
        if !self.requests.ended(id, unused) {
            return;
        }
        self.requests.heard(Instant::now());
        let event = match meaning {
            Meaning::Heartbeat | Meaning::Ended => SourceEvent::PullEnded { outstanding: self.requests.outstanding() },
            Meaning::Gap(reason) => {
                self.requests.clear();
                SourceEvent::Gap(reason)
            }
            Meaning::Gone(reason) => {
                self.requests.clear();
                SourceEvent::ConsumerGone(reason)
            }
            Meaning::Refused(reason) => SourceEvent::Refused(reason),
        };
        self.found.push_back(event);
    }

    /// A new connection: requests of the old one may live on or not, and replies to it are lost.
    fn reconnected(&mut self) {
        let count = self.link.count();
        if count == self.count {
            return;
        }
        self.count = count;
        self.connects.mark_unchanged();
        self.requests.clear();
        self.leaving = None;
        self.found.extend(self.tracker.abandon());
        self.found.push_back(SourceEvent::Gap("the connection was made anew"));
    }

    /// Whether requests were silent for too long.
    fn silence(&mut self) -> Option<SourceEvent> {
        if self.leaving.as_ref().is_some_and(|leaving| Instant::now() >= leaving.deadline()) {
            self.give_up();
            return self.found.pop_front();
        }
        let deadline = self.requests.deadline()?;
        let now = Instant::now();
        if now < deadline {
            return None;
        }
        if now > deadline + STALL {
            self.requests.excuse(now);
            return None;
        }
        self.requests.clear().then_some(SourceEvent::Gap("heartbeats are missing"))
    }

    fn close(&mut self) {
        self.leaving = None;
        if !std::mem::replace(&mut self.closed, true) {
            self.requests.clear();
            self.found.extend(self.tracker.abandon());
            self.found.push_back(SourceEvent::ConsumerGone("the connection to NATS is closed".into()));
        }
    }
}

/// A new inbox: what its subjects begin with, with the final dot, and the subscription of all of them.
async fn subscribe(client: &Client) -> Result<(String, Subscriber), SourceError> {
    let prefix = format!("{}.", client.new_inbox());
    match client.subscribe(format!("{prefix}>")).await {
        Ok(subscription) => Ok((prefix, subscription)),
        Err(error) => Err(SourceError::new(SourceErrorKind::Disconnected, error.to_string())),
    }
}
