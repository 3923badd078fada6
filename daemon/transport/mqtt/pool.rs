//! The node as a member of a pool: a shared subscription on a connection of its own.
//!
//! Brokers hand a shared subscription's messages out in turn and blind to load, also to a member that is away while its
//! session lives. So a member leaves in time, and its session on this connection is short. What is asked of a pool that all
//! members have left is lost; on MQTT 5 the requester's PUBACK says so (0x10), on 3.1.1 nothing does. So a member that is hot
//! or short of memory leaves when it would refuse what is asked, not before.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::ears::Ears;
use super::herald::Herald;
use super::line::{Terms, Version};
use super::link::{self, Link, LinkEvent, Orders};
use super::topics::Topics;
use crate::pulse::{Life, Part, Pulse};

/// How long the broker keeps what it has given us while we are away: enough for a connection that breaks and comes again.
/// Longer, and a member that is gone would be given its share of the questions for as long.
const SESSION_EXPIRY: Duration = Duration::from_secs(2);

/// Unanswered requests at which a member leaves its pool, and at which it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) leave: usize,
    pub(super) rejoin: usize,
}

/// What a member looks at before it takes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Requests of every way in that have no answer.
    pub(super) load: usize,
    /// Heat, power and memory let ordinary questions in.
    pub(super) fit: bool,
    pub(super) draining: bool,
}

/// Whether a node should be a member now.
fn is_willing(member: bool, state: State, marks: Marks) -> bool {
    !state.draining && state.fit && if member { state.load < marks.leave } else { state.load <= marks.rejoin }
}

/// Our membership.
pub(super) struct Pool {
    pub(super) link: Link,
    filters: Vec<String>,
    member: bool,
    inbox: mpsc::Receiver<LinkEvent>,
    orders: watch::Sender<Orders>,
    task: JoinHandle<()>,
}

impl Pool {
    /// Opens the connection and joins.
    pub(super) fn join(node: &Terms, topics: &Topics, pulse: &Arc<Pulse>) -> Self {
        let terms = Terms {
            client_id: format!("{}.pool", node.client_id),
            session_expiry: SESSION_EXPIRY,
            // On 3.1.1 a session that is kept is kept for ever.
            durable: node.version == Version::V5,
            will: None,
            ..node.clone()
        };
        let filters = vec![topics.pool_filter()];
        let (orders, told) = watch::channel(Orders { birth: Vec::new(), leave: false });
        let (herald, life) = (Herald::new(topics), Life::begin(pulse, Part::PoolLink));
        let (link, inbox, task) = link::start(terms, filters.clone(), told, None, herald, Ears::default(), life);
        Self { link, filters, member: true, inbox, orders, task }
    }

    pub(super) fn is_member(&self) -> bool {
        self.member
    }

    /// Leaves or joins, as the node's state says. What is on its way to us still comes and is served.
    pub(super) fn attend(&mut self, state: State, marks: Marks) {
        let willing = is_willing(self.member, state, marks);
        if willing == self.member || !self.link.listen(&self.filters, willing) {
            return;
        }
        self.member = willing;
        let State { load, fit, draining } = state;
        tracing::info!(load, fit, draining, member = willing, "membership in the pool");
    }

    /// Says goodbye.
    pub(super) async fn close(self) {
        self.orders.send_modify(|orders| orders.leave = true);
        link::leave(&self.link);
        // What still comes is not acknowledged: its requester asks another member.
        drop(self.inbox);
        link::end(self.task).await;
    }
}

/// The next thing that the pool's connection says; never, without one.
pub(super) async fn next(pool: &mut Option<Pool>) -> LinkEvent {
    if let Some(pool) = pool
        && let Some(event) = pool.inbox.recv().await
    {
        return event;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_leaves_at_the_high_mark_and_comes_back_at_the_low_one() {
        let marks = Marks { leave: 6, rejoin: 2 };
        let state = |load| State { load, fit: true, draining: false };
        let willing = |member, load| is_willing(member, state(load), marks);
        assert_eq!([0, 5, 6, 9].map(|load| willing(true, load)), [true, true, false, false]);
        assert_eq!([9, 5, 3, 2, 0].map(|load| willing(false, load)), [false, false, false, true, true]);
        for member in [true, false] {
            assert!(!is_willing(member, State { draining: true, ..state(0) }, marks));
            assert!(!is_willing(member, State { fit: false, ..state(0) }, marks));
        }
    }
}
