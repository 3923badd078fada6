//! One connection to a broker, from the first byte to the last.
//!
//! A line is made for one connection and thrown away with it. What was on its way is not lost with it: the pipe keeps that,
//! and the session lives at the broker. Reading, writing and the clock never wait for each other, so a peer that does not
//! read cannot keep us from noticing; and whatever is cut off here has lost nothing (decision 0011).

mod error;
mod terms;
mod wire;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

pub(super) use error::LineError;
pub(super) use terms::{Terms, Version};
use wire::{Pushed, Wire, push};

use super::codec::{self, Hello, Incoming, Refusal};
use super::dial::{DialError, dial};
use super::reply::Parcel;
use super::wire::Mail;
use crate::fault::Fault;

/// Packets that wait between a hand and its line. Publishes are bounded by the window long before; the rest is room for
/// acknowledgements.
pub(super) const CHANNEL: usize = 64;
/// How long one attempt to connect may take, TLS and the broker's first word included.
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes that wait for the socket before more orders are taken; one packet may pass it.
const OUTPUT_MAX: usize = 64 << 10;
/// Room that is made for reading at a time.
const INPUT_STEP: usize = 8 << 10;

/// What the line tells.
#[derive(Debug)]
pub(super) enum Happening {
    Connected {
        session_present: bool,
        packet_max: Option<usize>,
        receive_max: Option<u16>,
    },
    Mail {
        mail: Mail,
        packet_id: u16,
    },
    /// A publish has left us; 0 for QoS 0.
    Sent(u16),
    /// An acknowledgement of ours has left us.
    AckSent,
    /// The broker has a publish of ours, or does not want it; what it remarks on it.
    Acked {
        packet_id: u16,
        remark: Option<Refusal>,
    },
    /// The broker has answered a subscription; the places of the filters that it refused.
    Subscribed {
        refused: Vec<usize>,
    },
    /// A goodbye has left us.
    Left,
}

/// What a hand puts in.
enum Order {
    Publish(Box<Parcel>),
    Ack(u16),
    Subscribe { filters: Vec<String>, retained: bool },
    Unsubscribe { filters: Vec<String> },
    Leave,
}

/// Puts packets in; cheap to clone.
#[derive(Clone)]
pub(super) struct Hand {
    version: Version,
    orders: mpsc::Sender<Order>,
}

/// The line's box is full; the packet was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BoxFull;

impl Hand {
    pub(super) fn publish(&self, parcel: &Parcel) -> Result<(), BoxFull> {
        self.put(Order::Publish(Box::new(parcel.clone())))
    }

    /// Acknowledges a received publish by its packet id.
    pub(super) fn ack(&self, packet_id: u16) -> Result<(), BoxFull> {
        self.put(Order::Ack(packet_id))
    }

    /// Subscribes at QoS 1; `retained`: what the broker keeps is wanted, too.
    pub(super) fn subscribe(&self, filters: &[String], retained: bool) -> Result<(), BoxFull> {
        self.put(Order::Subscribe { filters: filters.to_vec(), retained })
    }

    /// Takes a subscription back.
    pub(super) fn unsubscribe(&self, filters: &[String]) -> Result<(), BoxFull> {
        self.put(Order::Unsubscribe { filters: filters.to_vec() })
    }

    /// Says goodbye; the broker drops the will and keeps the session.
    pub(super) fn leave(&self) -> Result<(), BoxFull> {
        self.put(Order::Leave)
    }

    /// Bytes that the whole packet takes on this line.
    pub(super) fn size_of(&self, parcel: &Parcel) -> usize {
        codec::size_of(self.version, parcel)
    }

    fn put(&self, order: Order) -> Result<(), BoxFull> {
        // A line that is gone takes nothing either; its end is told elsewhere.
        self.orders.try_send(order).map_err(|_| BoxFull)
    }
}

/// Makes the connection live by being polled.
pub(super) struct Line {
    terms: Terms,
    orders: mpsc::Receiver<Order>,
    wire: Option<Wire>,
    events: VecDeque<Happening>,
    /// What is true once all that was written has been flushed.
    written: VecDeque<Happening>,
}

/// A line and its hand; nothing is opened before the first poll.
pub(super) fn open(terms: &Terms) -> (Hand, Line) {
    let (sender, orders) = mpsc::channel(CHANNEL);
    let hand = Hand { version: terms.version, orders: sender };
    let (events, written) = (VecDeque::new(), VecDeque::new());
    (hand, Line { terms: terms.clone(), orders, wire: None, events, written })
}

impl Line {
    /// The next thing that happens. May be cut anywhere. After an error the line is dead.
    pub(super) async fn poll(&mut self) -> Result<Happening, LineError> {
        loop {
            if let Some(happening) = self.events.pop_front() {
                return Ok(happening);
            }
            if self.wire.is_none() {
                return self.connect().await;
            }
            self.turn().await?;
        }
    }

    /// Messages that a dead line has read and not told.
    pub(super) fn leftovers(&mut self) -> Vec<Mail> {
        let mail = |happening| match happening {
            Happening::Mail { mail, .. } => Some(mail),
            _ => None,
        };
        self.events.drain(..).filter_map(mail).collect()
    }

    async fn connect(&mut self) -> Result<Happening, LineError> {
        let until = Instant::now() + CONNECT;
        let greeting = async {
            let stream = dial(&self.terms.address, &self.terms.access).await?;
            let (read, write) = tokio::io::split(stream);
            let mut wire = Wire::new(read, write, self.terms.keep_alive);
            let reading = self.terms.access.clone();
            let password = tokio::task::spawn_blocking(move || reading.password())
                .await
                .unwrap_or_else(|error| Err(Fault::bug(format!("reading the password: {error}"))))
                .map_err(DialError::Access)?;
            codec::hello(&self.terms, password, &mut wire.output)?;
            wire.write.write_all_buf(&mut wire.output).await?;
            wire.write.flush().await?;
            loop {
                if let Some(incoming) = codec::read(self.terms.version, self.terms.packet_max, &mut wire.input)? {
                    return Ok((wire, incoming));
                }
                wire.input.reserve(INPUT_STEP);
                if wire.read.read_buf(&mut wire.input).await? == 0 {
                    return Err(LineError::Closed);
                }
            }
        };
        let (mut wire, incoming) = timeout_at(until, greeting).await.map_err(|_| LineError::Slow(CONNECT))??;
        match incoming {
            Incoming::Hello(Hello { session_present, packet_max, receive_max, keep_alive }) => {
                wire.keep_alive = keep_alive.filter(|wanted| !wanted.is_zero()).unwrap_or(self.terms.keep_alive);
                wire.beat = Instant::now() + wire.keep_alive;
                self.wire = Some(wire);
                // Whatever came with the greeting is told after it.
                self.take_packets()?;
                Ok(Happening::Connected { session_present, packet_max, receive_max })
            }
            Incoming::Refused(refusal) => Err(LineError::Refused(refusal)),
            Incoming::Goodbye(refusal) => Err(LineError::Ended(refusal)),
            other => Err(LineError::Protocol(format!("its first packet is {other:?}"))),
        }
    }

    /// Moves what can move, once.
    async fn turn(&mut self) -> Result<(), LineError> {
        let Some(wire) = &mut self.wire else { return Ok(()) };
        let writing = !wire.output.is_empty();
        wire.input.reserve(INPUT_STEP);
        // Each arm loses nothing when another is taken: what was read or written is counted in the buffers.
        tokio::select! {
            read = wire.read.read_buf(&mut wire.input) => {
                if read? == 0 {
                    return Err(LineError::Closed);
                }
                wire.heard = true;
                // What the broker answers has left us, flushed or not.
                self.events.append(&mut self.written);
                self.take_packets()
            }
            pushed = push(&mut wire.write, &mut wire.output), if writing || !wire.flushed => {
                wire.flushed = pushed? == Pushed::Flushed;
                wire.wrote = true;
                if wire.flushed {
                    self.events.append(&mut self.written);
                }
                Ok(())
            }
            Some(order) = self.orders.recv(), if wire.output.len() < OUTPUT_MAX => {
                self.written.extend(wire.obey(self.terms.version, order)?);
                while wire.output.len() < OUTPUT_MAX && let Ok(order) = self.orders.try_recv() {
                    self.written.extend(wire.obey(self.terms.version, order)?);
                }
                Ok(())
            }
            () = sleep_until(wire.beat) => wire.beat(self.terms.version),
        }
    }

    fn take_packets(&mut self) -> Result<(), LineError> {
        let Some(wire) = &mut self.wire else { return Ok(()) };
        while let Some(incoming) = codec::read(self.terms.version, self.terms.packet_max, &mut wire.input)? {
            match incoming {
                Incoming::Said(happening) => {
                    if let Happening::Acked { packet_id, .. } = &happening {
                        wire.unacked.remove(packet_id);
                    }
                    self.events.push_back(happening);
                }
                Incoming::Goodbye(refusal) => return Err(LineError::Ended(refusal)),
                Incoming::Hello(_) | Incoming::Refused(_) => {
                    return Err(LineError::Protocol("it greets twice".to_owned()));
                }
                Incoming::Nothing => {}
            }
        }
        Ok(())
    }
}
