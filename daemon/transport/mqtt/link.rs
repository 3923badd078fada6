//! The link: keeps one connection to the broker alive, and moves messages both ways.
//!
//! One task polls the line and does nothing that could keep it from polling; what it hears goes to the desk. After any
//! error, or when nothing has happened for longer than two keep-alives, the line is thrown away, and what was on its way
//! is sent again on the next one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand_core::{OsRng, TryRngCore};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::line::{self, Happening, Line, LineError, Terms};
use super::pipe::{Pipe, Receipt};
use super::reply::Parcel;
use super::wire::Mail;
use crate::journal::Key;
use crate::journal::trap::Trap;
use crate::vitals::Vitals;

/// Messages between the link and the desk. More than the window; past it the broker waits, which is what a window is for.
const EVENTS: usize = 64;
/// The first pause after a lost connection, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// A connection that lived this long was a good one: the next pause is short again.
const GOOD: Duration = Duration::from_secs(20);
/// Connections in a row that the broker ends at once, before we call it a fight over our client id.
const SHORT_LIVED: u32 = 4;

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
    vitals: Arc<Vitals>,
) -> (Link, mpsc::Receiver<LinkEvent>, JoinHandle<()>) {
    let (events, inbox) = mpsc::channel(EVENTS);
    let link = Link { pipe: Arc::default() };
    let keeper = Keeper { link: link.clone(), terms, filters, orders, vitals, events, connections: 0 };
    (link, inbox, tokio::spawn(keeper.run()))
}

/// Why one connection ended.
#[derive(Debug, thiserror::Error)]
enum Ending {
    #[error("{0}")]
    Line(#[from] LineError),
    #[error("nothing happened for {0:?}")]
    Still(Duration),
    #[error("a packet id is not acknowledged")]
    Stuck,
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
    vitals: Arc<Vitals>,
    events: mpsc::Sender<LinkEvent>,
    connections: u64,
}

impl Keeper {
    async fn run(mut self) {
        let mut pause = PAUSE.0;
        let mut short_lived = 0;
        loop {
            let begun = Instant::now();
            let (hand, mut line) = line::open(&self.terms);
            let epoch = self.link.pipe().begin();
            let ending = self.connection(&hand, &mut line, epoch).await;
            let was_up = self.link.is_connected();
            self.link.pipe().disconnected();
            self.vitals.set_mqtt_connected(false, false);
            if matches!(ending, Ending::Left | Ending::NoDesk) || self.orders.borrow().leave {
                return;
            }
            tracing::warn!(broker = %self.terms.address, reason = %ending, was_up, pause_ms = pause.as_millis(), "the broker is away");
            // What the dead line had read is served; its receipt is void, so the broker may send it again.
            for mail in line.leftovers() {
                let void = Receipt { epoch, packet_id: 0 };
                if self.events.send(LinkEvent::Mail(Box::new(mail), void)).await.is_err() {
                    return;
                }
            }
            if begun.elapsed() > GOOD {
                (pause, short_lived) = (PAUSE.0, 0);
            } else if was_up {
                short_lived += 1;
                if short_lived == SHORT_LIVED {
                    tracing::error!(
                        client_id = self.terms.client_id,
                        "the broker ends every connection at once; is another moed running with this client id?"
                    );
                }
            }
            if self.rest(pause).await {
                return;
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Pauses, with jitter so that many nodes do not come back together; `true` if told to leave meanwhile.
    async fn rest(&mut self, pause: Duration) -> bool {
        let jitter = OsRng.try_next_u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX));
        let pause = pause.mul_f64(0.5 + jitter);
        let leave = self.orders.wait_for(|orders| orders.leave);
        match timeout(pause, leave).await {
            Err(_) => false,
            Ok(_told_or_gone) => true,
        }
    }

    /// One connection, from the first packet to its end.
    async fn connection(&mut self, hand: &line::Hand, line: &mut Line, epoch: u64) -> Ending {
        let mut stillness = still_after(self.terms.keep_alive);
        loop {
            // The one place where a poll may be cut: the line is thrown away after it.
            let happening = match timeout(stillness, line.poll()).await {
                Err(_) => return Ending::Still(stillness),
                Ok(Err(error)) => return error.into(),
                Ok(Ok(happening)) => happening,
            };
            let event = match happening {
                Happening::Connected { session_present, packet_max, receive_max, keep_alive } => {
                    stillness = still_after(keep_alive);
                    Some(self.up(hand, session_present, packet_max, receive_max))
                }
                Happening::Mail { mail, packet_id } => {
                    Some(LinkEvent::Mail(Box::new(mail), Receipt { epoch, packet_id }))
                }
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
                Happening::Acked { packet_id, refused } => self.acked(packet_id, refused.as_deref()),
                Happening::Subscribed { refused } => {
                    if refused > 0 {
                        tracing::error!(refused, "the broker refused subscriptions; no request can arrive there");
                    }
                    None
                }
                Happening::Left => return Ending::Left,
                Happening::Stuck => return Ending::Stuck,
                Happening::Nothing => None,
            };
            if let Some(event) = event
                && self.events.send(event).await.is_err()
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
        if hand.subscribe(&self.filters, false).is_err() {
            // A new line's box is empty, so this cannot be; without subscriptions nothing arrives, and the log says why.
            tracing::error!("the subscriptions could not be sent");
        }
        let window = receive_max.map_or(self.terms.window, |max| self.terms.window.min(max / 2)).max(1);
        let birth = self.orders.borrow().birth.clone();
        self.link.pipe().connected(hand.clone(), window.into(), packet_max, &birth);
        let again = self.connections > 0;
        self.connections += 1;
        self.vitals.set_mqtt_connected(true, again);
        tracing::info!(session_present, window, packet_max, "connected to the broker");
        LinkEvent::Connected { forgotten: again && !session_present }
    }

    fn acked(&self, packet_id: u16, refused: Option<&str>) -> Option<LinkEvent> {
        let parcel = self.link.pipe().acked(packet_id)?;
        if let Some(reason) = refused {
            // Sending it again would be refused again; the answer stays in the journal for whoever asks.
            tracing::warn!(topic = parcel.topic, reason, "the broker refused a publish");
        }
        parcel.answer.map(LinkEvent::Delivered)
    }
}

/// Pings go out every keep-alive, and each is an event: this long without one, the line hangs in a write.
fn still_after(keep_alive: Duration) -> Duration {
    keep_alive * 2 + Duration::from_secs(2)
}

/// Says goodbye on a live connection.
pub(super) fn leave(link: &Link) -> bool {
    link.pipe().leave()
}
