//! Messages on their way through the desk: what one comes to is dealt with as soon as it is known, and each is acknowledged in
//! its turn. So nobody's question waits for somebody else's, and acknowledgements leave in the order of the messages.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

type Coming<F> = Pin<Box<dyn Future<Output = (u64, F)> + Send>>;

/// `F`: what a message comes to; `S`: the right to acknowledge it.
pub(super) struct Intake<F, S> {
    coming: FuturesUnordered<Coming<F>>,
    /// What is not acknowledged, oldest first; `true` where only older ones are waited for.
    stubs: VecDeque<(S, bool)>,
    /// The number of the oldest.
    first: u64,
}

impl<F, S> Intake<F, S> {
    pub(super) fn new() -> Self {
        Self { coming: FuturesUnordered::new(), stubs: VecDeque::new(), first: 0 }
    }

    /// A message of which it will be known later what it comes to.
    pub(super) fn push(&mut self, stub: S, fate: impl Future<Output = F> + Send + 'static) {
        let number = self.first + self.stubs.len() as u64;
        self.stubs.push_back((stub, false));
        self.coming.push(Box::pin(async move { (number, fate.await) }));
    }

    /// A message with which all is done; returns those that may be acknowledged now.
    #[must_use]
    pub(super) fn settled(&mut self, stub: S) -> Vec<S> {
        self.stubs.push_back((stub, true));
        self.in_turn()
    }

    /// All is done with the message of this number; returns those that may be acknowledged now.
    #[must_use]
    pub(super) fn done(&mut self, number: u64) -> Vec<S> {
        let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        if let Some((_, done)) = index.and_then(|index| self.stubs.get_mut(index)) {
            *done = true;
        }
        self.in_turn()
    }

    fn in_turn(&mut self) -> Vec<S> {
        let mut free = Vec::new();
        while self.stubs.front().is_some_and(|(_, done)| *done) {
            free.extend(self.stubs.pop_front().map(|(stub, _)| stub));
            self.first += 1;
        }
        free
    }

    /// What some message came to, with its number; `None` where none is on its way.
    pub(super) async fn next(&mut self) -> Option<(u64, F)> {
        self.coming.next().await
    }

    /// Messages that are not acknowledged.
    pub(super) fn len(&self) -> usize {
        self.stubs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stubs.is_empty()
    }

    /// Lets go of all; nothing of it is acknowledged.
    pub(super) fn clear(&mut self) {
        *self = Self { first: self.first + self.stubs.len() as u64, ..Self::new() };
    }
}

/// One client's jobs are submitted one after the other, so that they stand in line as it asked; no client waits for another.
#[derive(Default)]
pub(super) struct Lines {
    last: HashMap<String, oneshot::Receiver<()>>,
}

/// A place in a client's line.
pub(super) struct Place {
    before: Option<oneshot::Receiver<()>>,
    /// Dropped when the next may go.
    done: oneshot::Sender<()>,
}

impl Lines {
    /// The place behind everything that this client has asked before.
    pub(super) fn join(&mut self, client: &str) -> Place {
        // No more than there are messages on their way.
        self.last.retain(|_, last| last.try_recv() == Err(TryRecvError::Empty));
        let (done, over) = oneshot::channel();
        Place { before: self.last.insert(client.to_owned(), over), done }
    }
}

impl Place {
    /// Does the work when its turn comes.
    pub(super) async fn turn<T>(self, work: impl Future<Output = T>) -> T {
        if let Some(before) = self.before {
            // It never sends; the line goes on when it is done, or given up.
            before.await.ok();
        }
        let made = work.await;
        drop(self.done);
        made
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn what_is_known_first_comes_first_and_is_acknowledged_in_its_turn() {
        let mut intake = Intake::new();
        let (slow, fate) = oneshot::channel();
        intake.push("slow", fate);
        intake.push("quick", ready(Ok("known")));
        assert_eq!(intake.next().now_or_never(), Some(Some((1, Ok("known")))));
        assert_eq!(intake.done(1), Vec::<&str>::new());
        assert_eq!(intake.settled("at once"), Vec::<&str>::new());
        assert_eq!((intake.len(), intake.next().now_or_never()), (3, None));
        slow.send("known at last").unwrap();
        assert_eq!(intake.next().now_or_never(), Some(Some((0, Ok("known at last")))));
        assert_eq!(intake.done(0), ["slow", "quick", "at once"]);
        assert!(intake.is_empty());
        assert_eq!(intake.settled("alone"), ["alone"]);
        intake.push("lost", ready(Ok("never")));
        intake.clear();
        assert_eq!((intake.len(), intake.next().now_or_never()), (0, Some(None)));
        intake.push("new", ready(Ok("known")));
        assert_eq!(intake.next().now_or_never(), Some(Some((5, Ok("known")))));
        assert_eq!(intake.done(5), ["new"]);
    }

    #[test]
    fn a_client_waits_for_itself_and_for_nobody_else() {
        let mut lines = Lines::default();
        let (go, work) = oneshot::channel::<()>();
        let mut first = Box::pin(lines.join("lamp").turn(work));
        let mut second = Box::pin(lines.join("lamp").turn(ready(2)));
        let third = lines.join("lamp").turn(ready(3));
        assert_eq!(lines.join("door").turn(ready(1)).now_or_never(), Some(1));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        go.send(()).unwrap();
        assert!(first.now_or_never().is_some());
        // Given up: the line goes on.
        drop(second);
        assert_eq!(third.now_or_never(), Some(3));
        assert_eq!(lines.join("door").turn(ready(4)).now_or_never(), Some(4));
        assert_eq!(lines.last.len(), 1, "who is through is forgotten");
    }
}
