//! The verbs beside `request`, at the [`Desk`].

use std::time::Instant;

use super::answer::with_wishes;
use super::desk::{Desk, Fate, Stub, cancelled_early};
use super::topics::Verb;
use super::wire::{self, Mail};
use crate::journal::Key;

impl Desk {
    pub(super) fn named(&mut self, client: &str, verb: Verb, mail: &Mail, stub: Stub) {
        let (id, target) = match wire::read_named(&self.means.topics, client, mail) {
            Ok(read) => read,
            Err(refusal) => return self.refuse_mail(&refusal, stub),
        };
        let key = Key::new(client, id);
        match verb {
            Verb::Cancel => self.cancel(key, stub),
            Verb::Ack => {
                if self.live.contains_key(&key) {
                    return self.settled(stub);
                }
                let forgotten = self.means.journal.forget(key);
                self.intake.push_back(Box::pin(async move {
                    if let Err(error) = forgotten.await {
                        tracing::error!(%error, "an acknowledged answer could not be removed");
                    }
                    (Fate::Settled, stub)
                }));
            }
            Verb::Get | Verb::Request => {
                let found = self.means.journal.find(key.clone());
                self.intake.push_back(Box::pin(async move { (Fate::Get(key, target, Box::new(found.await)), stub) }));
            }
        }
    }

    fn cancel(&mut self, key: Key, stub: Stub) {
        let Some(live) = self.live.get(&key) else {
            if !self.means.journal.knows(&key) {
                self.tombs.dig(key, Instant::now());
            }
            return self.settled(stub);
        };
        tracing::debug!(client = key.client, id = key.id, submitted = live.submitted, "cancelled by the client");
        with_wishes(&live.wishes, |wishes| wishes.cancelled = true);
        live.cancel.raise();
        if live.submitted {
            return self.settled(stub);
        }
        // It waits here, where no flag is looked at.
        self.backlog.retain(|waiter| waiter.key != key);
        self.give_up(key, &cancelled_early());
        self.settled(stub);
    }
}
