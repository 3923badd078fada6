//! The verbs beside `request`, at the [`Desk`].

use std::time::Instant;

use super::answer::with_wishes;
use super::desk::{Desk, Fate, Stub, cancelled_early, entered};
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
                self.intake.push(stub, async move {
                    if let Err(error) = forgotten.await {
                        tracing::error!(%error, "an acknowledged answer could not be removed");
                    }
                    Fate::Settled
                });
            }
            Verb::Get | Verb::Request => {
                let entering = self.live.get(&key).and_then(|live| live.entering.clone());
                if let Some(entering) = entering {
                    // It is not in the journal before it is known what becomes of it.
                    let journal = self.means.journal.clone();
                    self.intake.push(stub, async move {
                        entered(entering).await;
                        let found = journal.find(key.clone()).await;
                        Fate::Get(key, target, Box::new(found))
                    });
                } else {
                    let found = self.means.journal.find(key.clone());
                    self.intake.push(stub, async move { Fate::Get(key, target, Box::new(found.await)) });
                }
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
        // What is on its way looks at the wish when it is through.
        if live.submitted || live.entering.is_some() {
            return self.settled(stub);
        }
        // It waits here, where no flag is looked at.
        self.backlog.retain(|waiter| waiter.key != key);
        self.give_up(key, &cancelled_early());
        self.settled(stub);
    }
}
