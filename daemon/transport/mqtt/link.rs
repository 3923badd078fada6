//! The link: keeps one connection to the broker alive, and moves messages both ways.
//!
//! One task polls the line; what it hears goes to the desk. After any error the line is thrown away, and what was on its
//! way is sent again on the next one. Brokers are tried in the order of the settings, from the first at each return.
//! While it waits, for the broker or for the desk, it beats: one that is no longer run is noticed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand_core::{OsRng, TryRngCore};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::address::Address;
use super::codec::Refusal;
use super::ears::Ears;
use super::herald::Herald;
use super::line::{self, Happening, Line, LineError, Terms};
use super::patience::{Loss, Patience};
use super::pipe::{Pipe, Receipt};
use super::reply::Parcel;
use super::wire::Mail;
use crate::journal::Key;
use crate::journal::trap::Trap;
use crate::pulse::Life;
use crate::vitals::Vitals;

/// Messages between the link and the desk. More than the window; past it the broker waits, which is what a window is for.
const EVENTS: usize = 64;
/// The goodbye's own time.
const GOODBYE: Duration = Duration::from_secs(2);

/// What the link has to say.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// A connection is up; `forgotten` if the broker should have kept our session and has not.
    Connected { forgotten: bool },
    /// A message came in.
    Mail(Box<Mail>, Receipt),
    /// The broker has this answer.
    Delivered(Key),
}

/// What the desk sends through; cheap to clone.
#[derive(Clone)]
pub(super) struct Link {
    pipe: Arc<Mutex<Pipe>>,
}

impl Link {
    /// One that never connects.
    #[cfg(test)]
    pub(super) fn nowhere() -> Self {
        Self { pipe: Arc::default() }
    }

    fn pipe(&self) -> MutexGuard<'_, Pipe> {
        // The books hold at every unlock, also one by a panic elsewhere.
        self.pipe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends, or gives back what there is no room for.
    pub(super) fn send(&self, parcel: Parcel) -> Result<(), Box<Parcel>> {
        self.pipe().push(parcel)
    }

    /// Acknowledges a message that came in.
    pub(super) fn ack(&self, receipt: Receipt) {
        self.pipe().ack(receipt);
    }

    /// Whether a copy of this answer is on its way already.
    pub(super) fn holds(&self, key: &Key) -> bool {
        self.pipe().holds(key)
    }

    /// Sure messages that the broker does not have yet.
    pub(super) fn load(&self) -> usize {
        self.pipe().load()
    }

    /// Subscribes, or takes the subscriptions back, also for later connections; `false` where there was no room to say so.
    pub(super) fn listen(&self, filters: &[String], wanted: bool) -> bool {
        self.pipe().listen(filters, wanted)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.pipe().is_connected()
    }
}

/// What the link is told from outside.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Orders {
    /// Said at the start of every connection.
    pub(super) birth: Vec<Parcel>,
    /// Say goodbye and end.
    pub(super) leave: bool,
}

/// Starts the task. It ends when it has been told to leave, and never by itself.
pub(super) fn start(
    terms: Terms,
    filters: Vec<String>,
    orders: watch::Receiver<Orders>,
    vitals: Option<Arc<Vitals>>,
    herald: Herald,
    ears: Ears,
    life: Life,
) -> (Link, mpsc::Receiver<LinkEvent>, JoinHandle<()>) {
    let (events, inbox) = mpsc::channel(EVENTS);
    let link = Link { pipe: Arc::default() };
    let keeper =
        Keeper { link: link.clone(), terms, filters, orders, vitals, herald, ears, life, events, connections: 0 };
    (link, inbox, tokio::spawn(keeper.run()))
}

/// Why one connection ended.
#[derive(Debug, thiserror::Error)]
enum Ending {
    #[error("{0}")]
    Line(#[from] LineError),
    #[error("said goodbye")]
    Left,
    #[error("the desk has gone")]
    NoDesk,
}

struct Keeper {
    link: Link,
    terms: Terms,
    filters: Vec<String>,
    orders: watch::Receiver<Orders>,
    /// Told whether the broker is reached; `None` for a connection that is not the node's own.
    vitals: Option<Arc<Vitals>>,
    herald: Herald,
    ears: Ears,
    life: Life,
    events: mpsc::Sender<LinkEvent>,
    connections: u64,
}

impl Keeper {
    async fn run(mut self) {
        let mut patience = Patience::default();
        let addresses: Vec<Address> =
            std::iter::once(self.terms.address.clone()).chain(self.terms.fallback.drain(..)).collect();
        loop {
            let mut losses = Vec::new();
            for address in &addresses {
                self.terms.address = address.clone();
                let Some(loss) = self.visit().await else { return };
                losses.push(loss);
                // One that was up and is lost is no reason to pass over those before it.
                if matches!(loss, Loss::Lost(Some(_)) | Loss::TakenOver) {
                    break;
                }
            }
            // If any of them may come back by itself, the others' refusals are no reason to wait long.
            let loss = losses.iter().copied().rev().find(|loss| *loss != Loss::Refused).unwrap_or(Loss::Refused);
            let advice = patience.after(loss);
            if advice.contested {
                let (client_id, pause_s) = (&self.terms.client_id, advice.pause.as_secs());
                tracing::error!(
                    client_id,
                    pause_s,
                    "another connection uses our client id, or the broker ends every connection at once; is another moed running with it?"
                );
                let event = self.herald.event("client_id_contested", &json!({"client_id": client_id}));
                self.say(event);
            }
            if self.rest(advice.pause).await {
                return;
            }
        }
    }

    /// One connection to one broker, or the attempt at one; `None` if it is over for good.
    async fn visit(&mut self) -> Option<Loss> {
        let (hand, mut line) = line::open(&self.terms);
        let epoch = self.link.pipe().begin();
        let mut up_since = None;
        let ending = self.connection(&hand, &mut line, epoch, &mut up_since).await;
        self.link.pipe().disconnected();
        if let Some(vitals) = &self.vitals {
            vitals.set_mqtt_connected(false, false);
        }
        if matches!(ending, Ending::Left | Ending::NoDesk) || self.orders.borrow().leave {
            return None;
        }
        tracing::warn!(broker = %self.terms.address, reason = %ending, was_up = up_since.is_some(), "the broker is away");
        // What the dead line had read is served; its receipt is void, so the broker may send it again.
        for mail in line.leftovers() {
            let void = Receipt { epoch, packet_id: 0 };
            self.life.during(self.events.send(LinkEvent::Mail(Box::new(mail), void))).await.ok()?;
        }
        Some(match &ending {
            Ending::Line(error) if error.refusal().is_some_and(|refusal| refusal.code == Refusal::TAKEN_OVER) => {
                Loss::TakenOver
            }
            Ending::Line(error) if error.is_about_us() => Loss::Refused,
            _ => Loss::Lost(up_since.map(|since: Instant| since.elapsed())),
        })
    }

    /// Says something of the node; where there is no room for it, the log has it.
    fn say(&self, event: Parcel) {
        if self.link.send(event).is_err() {
            tracing::debug!("no room for an event");
        }
    }

    /// Pauses, with jitter so that many nodes do not come back together; `true` if told to leave meanwhile.
    async fn rest(&mut self, pause: Duration) -> bool {
        let jitter = OsRng.try_next_u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX));
        let pause = pause.mul_f64(0.5 + jitter);
        tracing::info!(again_ms = pause.as_millis(), "the broker is tried again later");
        let leave = self.orders.wait_for(|orders| orders.leave);
        match self.life.during(timeout(pause, leave)).await {
            Err(_) => false,
            Ok(_told_or_gone) => true,
        }
    }

    /// One connection, from the first packet to its end.
    async fn connection(
        &mut self,
        hand: &line::Hand,
        line: &mut Line,
        epoch: u64,
        up_since: &mut Option<Instant>,
    ) -> Ending {
        loop {
            let happening = match self.life.during(line.poll()).await {
                Ok(happening) => happening,
                Err(error) => return error.into(),
            };
            let event = match happening {
                Happening::Connected { session_present, packet_max, receive_max } => {
                    *up_since = Some(Instant::now());
                    Some(self.up(hand, session_present, packet_max, receive_max))
                }
                Happening::Mail { mail, packet_id } => match self.ears.take(mail) {
                    None => {
                        self.link.ack(Receipt { epoch, packet_id });
                        None
                    }
                    Some(mail) => Some(LinkEvent::Mail(Box::new(mail), Receipt { epoch, packet_id })),
                },
                Happening::Sent(packet_id) => {
                    if self.link.pipe().sent(packet_id).is_some() {
                        Trap::AfterPublish.pass();
                    }
                    None
                }
                Happening::AckSent => {
                    Trap::AfterPuback.pass();
                    None
                }
                Happening::Acked { packet_id, remark } => {
                    // That nobody reads it now is no refusal: the answer waits in the journal for whoever asks.
                    self.acked(packet_id, remark.filter(|remark| remark.code != Refusal::UNHEARD).as_ref())
                }
                Happening::Subscribed { refused } => {
                    for filter in refused.iter().filter_map(|place| self.filters.get(*place)) {
                        tracing::error!(filter, "the broker refused a subscription; nothing can arrive there");
                        self.say(self.herald.event("subscribe_refused", &json!({"filter": filter})));
                    }
                    None
                }
                Happening::Left => return Ending::Left,
            };
            if let Some(event) = event
                && self.life.during(self.events.send(event)).await.is_err()
            {
                return Ending::NoDesk;
            }
            self.link.pipe().pump();
        }
    }

    /// Subscribes again at every connection, whatever the broker says it remembers: some forget shared subscriptions and
    /// say they have not.
    fn up(
        &mut self,
        hand: &line::Hand,
        session_present: bool,
        packet_max: Option<usize>,
        receive_max: Option<u16>,
    ) -> LinkEvent {
        let mut pipe = self.link.pipe();
        if !pipe.is_deaf() && hand.subscribe(&self.filters, false).is_err() {
            // A new line's box is empty, so this cannot be; without subscriptions nothing arrives, and the log says why.
            tracing::error!("the subscriptions could not be sent");
        }
        let window = receive_max.map_or(self.terms.window, |max| self.terms.window.min(max / 2)).max(1);
        let birth = self.orders.borrow().birth.clone();
        pipe.connected(hand.clone(), window.into(), packet_max, &birth);
        drop(pipe);
        let again = self.connections > 0;
        self.connections += 1;
        if let Some(vitals) = &self.vitals {
            vitals.set_mqtt_connected(true, again);
        }
        tracing::info!(broker = %self.terms.address, session_present, window, packet_max, "connected to the broker");
        LinkEvent::Connected { forgotten: again && !session_present }
    }

    fn acked(&self, packet_id: u16, refused: Option<&Refusal>) -> Option<LinkEvent> {
        let parcel = self.link.pipe().acked(packet_id)?;
        if let Some(reason) = refused {
            // Sending it again would be refused again; the answer stays in the journal for whoever asks.
            tracing::warn!(topic = parcel.topic, %reason, "the broker refused a publish");
            if let Some(event) = self.herald.refused(&parcel.topic, &reason.to_string()) {
                self.say(event);
            }
        }
        parcel.answer.map(LinkEvent::Delivered)
    }
}

/// Waits for the end of the task; one that does not end in time is cut, and the broker says the will.
pub(super) async fn end(task: JoinHandle<()>) {
    let stop = task.abort_handle();
    if timeout(GOODBYE, task).await.is_err() {
        stop.abort();
    }
}

/// Says goodbye on a live connection.
pub(super) fn leave(link: &Link) -> bool {
    link.pipe().leave()
}
