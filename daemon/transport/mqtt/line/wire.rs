//! The bytes of a live connection, both ways, and what of ours is on its way.

use std::collections::HashSet;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::Instant;

use super::{Happening, LineError, Order, Version};
use crate::transport::mqtt::codec;
use crate::transport::mqtt::dial::Stream;
use crate::transport::mqtt::reply::Surety;

/// A live connection.
pub(super) struct Wire {
    pub(super) read: ReadHalf<Box<dyn Stream>>,
    pub(super) write: WriteHalf<Box<dyn Stream>>,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    pub(super) flushed: bool,
    /// Packet ids that the broker has not acknowledged.
    pub(super) unacked: HashSet<u16>,
    last_id: u16,
    pub(super) keep_alive: Duration,
    pub(super) beat: Instant,
    /// Since the last beat.
    pub(super) heard: bool,
    pub(super) wrote: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// Some of it is written.
    Some,
    /// All that was written has left.
    Flushed,
}

/// Writes some of the output; where there is none left, flushes.
pub(super) async fn push(write: &mut WriteHalf<Box<dyn Stream>>, output: &mut BytesMut) -> Result<Pushed, LineError> {
    if output.is_empty() {
        write.flush().await?;
        return Ok(Pushed::Flushed);
    }
    if write.write_buf(output).await? == 0 {
        return Err(LineError::Closed);
    }
    Ok(Pushed::Some)
}

impl Wire {
    pub(super) fn new(
        read: ReadHalf<Box<dyn Stream>>,
        write: WriteHalf<Box<dyn Stream>>,
        keep_alive: Duration,
    ) -> Self {
        Self {
            read,
            write,
            input: BytesMut::new(),
            output: BytesMut::new(),
            flushed: true,
            unacked: HashSet::new(),
            last_id: 0,
            keep_alive,
            beat: Instant::now() + keep_alive,
            heard: true,
            wrote: true,
        }
    }

    /// Writes the packet; what to tell once it has left.
    pub(super) fn obey(&mut self, version: Version, order: Order) -> Result<Option<Happening>, LineError> {
        match order {
            Order::Publish(parcel) => {
                let packet_id = if parcel.surety == Surety::Sure { self.next_id() } else { 0 };
                if packet_id != 0 {
                    self.unacked.insert(packet_id);
                }
                codec::publish(version, *parcel, packet_id, &mut self.output)?;
                Ok(Some(Happening::Sent(packet_id)))
            }
            Order::Ack(packet_id) => {
                codec::ack(version, packet_id, &mut self.output)?;
                Ok(Some(Happening::AckSent))
            }
            Order::Subscribe { filters, retained } => {
                let packet_id = self.next_id();
                codec::subscribe(version, &filters, retained, packet_id, &mut self.output)?;
                Ok(None)
            }
            Order::Unsubscribe { filters } => {
                let packet_id = self.next_id();
                codec::unsubscribe(version, &filters, packet_id, &mut self.output)?;
                Ok(None)
            }
            Order::Leave => {
                codec::leave(version, &mut self.output)?;
                Ok(Some(Happening::Left))
            }
        }
    }

    /// The next packet id that names nothing else. The window is far smaller than the ids that there are.
    pub(super) fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.unacked.contains(&self.last_id) {
                return self.last_id;
            }
        }
    }

    /// Asks for a life sign; ends the line where the last one was not answered, or where the peer does not read.
    pub(super) fn beat(&mut self, version: Version) -> Result<(), LineError> {
        if !self.heard || (!self.output.is_empty() && !self.wrote) {
            return Err(LineError::Still(self.keep_alive));
        }
        (self.heard, self.wrote) = (false, false);
        self.beat = Instant::now() + self.keep_alive;
        codec::ping(version, &mut self.output)
    }
}
