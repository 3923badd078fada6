//! The books of the link: what waits, what was handed in, what the broker has not acknowledged. No I/O.
//!
//! Nothing that is sure leaves these books before the broker has it; whatever was on its way when a connection ended
//! goes back to the front, in order. Receivers may so see a message twice, never not at all.

use std::collections::VecDeque;

use super::line::{CHANNEL, Hand};
use super::reply::{Parcel, Surety, shrink};
use crate::journal::Key;

/// Parcels that wait for the broker; one more is not taken. An answer stays in the journal and comes again later, a
/// refusal is asked for again by its requester.
pub(super) const WAITING_MAX: usize = 512;
/// Bytes that wait for the broker, with the same consequence.
pub(super) const WAITING_BYTES_MAX: usize = 16 << 20;

/// The right to acknowledge one received message on the connection that it came by.
///
/// On any other connection the same packet id may name another message, and acknowledging that would lose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) epoch: u64,
    /// 0: nothing to acknowledge.
    pub(super) packet_id: u16,
}

#[derive(Default)]
pub(super) struct Pipe {
    waiting: VecDeque<Parcel>,
    waiting_bytes: usize,
    /// Handed to the library, in order; it has not told the packet id yet.
    handed: VecDeque<Parcel>,
    /// Sent and not acknowledged, in order.
    unacked: VecDeque<(u16, Parcel)>,
    acks: VecDeque<u16>,
    epoch: u64,
    window: usize,
    packet_max: Option<usize>,
    hand: Option<Hand>,
    /// Nothing is subscribed, and nothing will be on the next connection.
    deaf: bool,
}

impl Pipe {
    /// Counts a new connection; nothing is sent before [`Pipe::connected`].
    pub(super) fn begin(&mut self) -> u64 {
        self.epoch += 1;
        self.epoch
    }

    /// Opens the pipe onto a live connection; what has to be said at birth goes first.
    pub(super) fn connected(&mut self, hand: Hand, window: usize, packet_max: Option<usize>, birth: &[Parcel]) {
        self.hand = Some(hand);
        self.window = window;
        self.packet_max = packet_max;
        let stale = |parcel: &Parcel| birth.iter().any(|new| new.retain && new.topic == parcel.topic);
        self.waiting.retain(|parcel| !stale(parcel));
        for parcel in birth.iter().rev() {
            self.waiting.push_front(parcel.clone());
        }
        self.count_bytes();
    }

    /// Takes back all that was on its way; deltas are dropped, their time is over.
    pub(super) fn disconnected(&mut self) {
        self.hand = None;
        self.acks.clear();
        let on_the_way = self.unacked.drain(..).map(|(_, parcel)| parcel).chain(self.handed.drain(..));
        let mut waiting: VecDeque<_> = on_the_way.collect();
        waiting.append(&mut self.waiting);
        waiting.retain(|parcel| parcel.surety == Surety::Sure);
        self.waiting = waiting;
        self.count_bytes();
    }

    /// Subscribes, or takes the subscriptions back, on this connection and all later ones; `false` where the line's box is
    /// full and nothing has changed.
    pub(super) fn listen(&mut self, filters: &[String], wanted: bool) -> bool {
        let told = match &self.hand {
            Some(hand) if wanted => hand.subscribe(filters, false).is_ok(),
            Some(hand) => hand.unsubscribe(filters).is_ok(),
            None => true,
        };
        if told {
            self.deaf = !wanted;
        }
        told
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// Puts a parcel in line; gives it back where there is no room, or where it is fleeting and nobody is connected. What is
    /// fleeting makes room for what is sure.
    pub(super) fn push(&mut self, parcel: Parcel) -> Result<(), Box<Parcel>> {
        let no_use = parcel.surety == Surety::Fleeting && self.hand.is_none();
        if parcel.surety == Surety::Sure && !self.has_room(&parcel) {
            self.waiting.retain(|waiting| waiting.surety == Surety::Sure);
            self.count_bytes();
        }
        if no_use || !self.has_room(&parcel) {
            return Err(Box::new(parcel));
        }
        self.waiting_bytes += parcel.payload.len();
        self.waiting.push_back(parcel);
        self.pump();
        Ok(())
    }

    fn has_room(&self, parcel: &Parcel) -> bool {
        self.waiting.len() < WAITING_MAX && self.waiting_bytes + parcel.payload.len() <= WAITING_BYTES_MAX
    }

    /// Acknowledges a received message, unless the connection that it came by has ended.
    pub(super) fn ack(&mut self, receipt: Receipt) {
        if receipt.epoch == self.epoch && receipt.packet_id != 0 && self.hand.is_some() {
            self.acks.push_back(receipt.packet_id);
            self.pump();
        }
    }

    /// Hands in what the window allows. Called after everything that may have made room.
    pub(super) fn pump(&mut self) {
        let Some(hand) = self.hand.clone() else { return };
        while let Some(packet_id) = self.acks.front() {
            if hand.ack(*packet_id).is_err() {
                return;
            }
            self.acks.pop_front();
        }
        while let Some(mut parcel) = self.next_allowed() {
            if let Some(packet_max) = self.packet_max {
                match fit(&hand, parcel, packet_max) {
                    Some(fitting) => parcel = fitting,
                    None => continue,
                }
            }
            if hand.publish(&parcel).is_err() {
                self.waiting_bytes += parcel.payload.len();
                self.waiting.push_front(parcel);
                return;
            }
            self.handed.push_back(parcel);
        }
    }

    fn next_allowed(&mut self) -> Option<Parcel> {
        let on_the_way = self.unacked.len() + self.handed.iter().filter(|parcel| parcel.surety == Surety::Sure).count();
        let sure = self.waiting.front()?.surety == Surety::Sure;
        // Half the library's box stays free for acknowledgements.
        if (sure && on_the_way >= self.window) || self.handed.len() >= CHANNEL / 2 {
            return None;
        }
        let parcel = self.waiting.pop_front()?;
        self.waiting_bytes = self.waiting_bytes.saturating_sub(parcel.payload.len());
        Some(parcel)
    }

    /// The library has sent what was handed in first; the key, where that is an answer.
    pub(super) fn sent(&mut self, packet_id: u16) -> Option<Key> {
        let parcel = self.handed.pop_front()?;
        let key = parcel.answer.clone();
        if packet_id != 0 {
            self.unacked.push_back((packet_id, parcel));
        }
        key
    }

    /// The broker has it.
    pub(super) fn acked(&mut self, packet_id: u16) -> Option<Parcel> {
        let place = self.unacked.iter().position(|(id, _)| *id == packet_id)?;
        self.unacked.remove(place).map(|(_, parcel)| parcel)
    }

    /// Whether a copy of this answer is waiting or on its way.
    pub(super) fn holds(&self, key: &Key) -> bool {
        let is = |parcel: &Parcel| parcel.answer.as_ref() == Some(key);
        self.waiting.iter().any(is) || self.handed.iter().any(is) || self.unacked.iter().any(|(_, parcel)| is(parcel))
    }

    /// Sure parcels that are not delivered.
    pub(super) fn load(&self) -> usize {
        let sure = |parcel: &&Parcel| parcel.surety == Surety::Sure;
        self.waiting.iter().filter(sure).count() + self.handed.iter().filter(sure).count() + self.unacked.len()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.hand.is_some()
    }

    /// Says goodbye, if there is anybody to say it to.
    pub(super) fn leave(&mut self) -> bool {
        self.hand.as_ref().is_some_and(|hand| hand.leave().is_ok())
    }

    fn count_bytes(&mut self) {
        self.waiting_bytes = self.waiting.iter().map(|parcel| parcel.payload.len()).sum();
    }
}

/// Makes a parcel fit the broker's Maximum Packet Size: handing in one that does not would end every connection.
fn fit(hand: &Hand, mut parcel: Parcel, packet_max: usize) -> Option<Parcel> {
    let size = hand.size_of(&parcel);
    let Some(over) = size.checked_sub(packet_max).filter(|over| *over > 0) else { return Some(parcel) };
    if parcel.surety == Surety::Fleeting {
        return None;
    }
    tracing::warn!(topic = parcel.topic, size, packet_max, "an answer is larger than the broker takes");
    parcel.payload = shrink(&parcel.payload, over)?;
    Some(parcel)
}

#[cfg(test)]
mod tests {
    use super::super::line::{Terms, Version, open};
    use super::*;

    fn parcel(number: usize, surety: Surety) -> Parcel {
        let mut parcel = Parcel::retained(format!("t/{number}"), b"x".to_vec(), false);
        (parcel.surety, parcel.retain) = (surety, false);
        parcel
    }

    fn topics(pipe: &Pipe) -> Vec<String> {
        pipe.waiting.iter().map(|parcel| parcel.topic.clone()).collect()
    }

    #[test]
    fn no_more_than_the_window_is_on_its_way_and_all_of_it_comes_back_in_order() {
        for version in [Version::V5, Version::V311] {
            let (hand, _line) = open(&Terms::nowhere(version));
            let mut pipe = Pipe::default();
            pipe.begin();
            pipe.connected(hand, 3, None, &[]);
            for number in 0..10 {
                pipe.push(parcel(number, Surety::Sure)).unwrap();
            }
            assert_eq!((pipe.handed.len(), pipe.waiting.len()), (3, 7));
            for id in 1..=3 {
                pipe.sent(id);
            }
            assert_eq!(pipe.unacked.len(), 3);
            assert_eq!(pipe.acked(2).unwrap().topic, "t/1");
            pipe.pump();
            assert_eq!((pipe.handed.len(), pipe.unacked.len(), pipe.load()), (1, 2, 9));
            pipe.disconnected();
            assert_eq!(topics(&pipe), ["t/0", "t/2", "t/3", "t/4", "t/5", "t/6", "t/7", "t/8", "t/9"]);
            assert_eq!(pipe.load(), 9);
        }
    }

    #[test]
    fn deltas_die_with_the_connection_and_birth_goes_first_and_once() {
        let (hand, _line) = open(&Terms::nowhere(Version::V5));
        let mut pipe = Pipe::default();
        assert!(pipe.push(parcel(0, Surety::Fleeting)).is_err(), "nobody is there to read it");
        pipe.push(parcel(1, Surety::Sure)).unwrap();
        let birth = [Parcel::retained("here".to_owned(), b"online".to_vec(), false)];
        pipe.connected(hand.clone(), 0, None, &birth);
        pipe.disconnected();
        pipe.connected(hand, 0, None, &birth);
        assert_eq!(topics(&pipe), ["here", "t/1"]);
    }

    #[test]
    fn an_acknowledgement_of_an_older_connection_is_dropped() {
        let (hand, _line) = open(&Terms::nowhere(Version::V5));
        let mut pipe = Pipe::default();
        let old = pipe.begin();
        pipe.connected(hand.clone(), 1, None, &[]);
        pipe.disconnected();
        let new = pipe.begin();
        pipe.connected(hand, 1, None, &[]);
        pipe.ack(Receipt { epoch: old, packet_id: 1 });
        assert!(pipe.acks.is_empty());
        // The box takes CHANNEL packets while nobody polls; what does not fit waits here.
        for id in 1..=u16::try_from(CHANNEL).unwrap() + 3 {
            pipe.ack(Receipt { epoch: new, packet_id: id });
        }
        assert_eq!(pipe.acks.len(), 3);
    }

    #[test]
    fn the_pipe_has_a_limit_in_parcels_and_in_bytes() {
        let mut pipe = Pipe::default();
        for number in 0..WAITING_MAX {
            pipe.push(parcel(number, Surety::Sure)).unwrap();
        }
        assert!(pipe.push(parcel(0, Surety::Sure)).is_err());
        let mut pipe = Pipe::default();
        let mut large = parcel(0, Surety::Sure);
        large.payload = vec![0; WAITING_BYTES_MAX];
        pipe.push(large).unwrap();
        assert!(pipe.push(parcel(1, Surety::Sure)).is_err());
    }

    #[test]
    fn what_is_fleeting_makes_room_for_what_is_sure_and_never_takes_it() {
        let (hand, _line) = open(&Terms::nowhere(Version::V5));
        let mut pipe = Pipe::default();
        // One sure parcel fills the window, another one waits, and all that is fleeting stands behind it.
        pipe.connected(hand, 1, None, &[]);
        pipe.push(parcel(0, Surety::Sure)).unwrap();
        pipe.push(parcel(1, Surety::Sure)).unwrap();
        for number in 2..=WAITING_MAX {
            pipe.push(parcel(number, Surety::Fleeting)).unwrap();
        }
        assert!(pipe.push(parcel(0, Surety::Fleeting)).is_err());
        pipe.push(parcel(9, Surety::Sure)).unwrap();
        assert_eq!(topics(&pipe), ["t/1", "t/9"]);
        assert_eq!(pipe.waiting_bytes, 2);
    }
}
