//! Named places at which a test may have the process killed, to show what a power cut there loses: nothing.
//!
//! `MOED_FAULT` names one place, and after a colon which passing of it is deadly (`after-publish:3`; the first without).
//! It is read once, and in debug builds only: a release build has no traps. `debug_assertions` and not a feature, so that
//! the binary which `cargo test` builds has them without being asked, and the one that is shipped cannot have them.

/// A place between two steps of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// The accepted row is on disk, its PUBACK is not sent.
    AfterJournal,
    /// The PUBACK is on its way, the answer is not computed.
    AfterPuback,
    /// The attempt is counted on disk, as when a prompt kills the process.
    AfterAttempt,
    /// Some of the text is there.
    MidGeneration,
    /// The answer is on disk, nothing of it is published.
    AfterResultRow,
    /// The answer is on its way, the broker has not acknowledged it.
    AfterPublish,
    /// The broker has acknowledged the answer, the journal does not know it.
    BeforeDelivered,
}

impl Trap {
    /// All of them, in the order of one answer.
    pub const ALL: [Self; 7] = [
        Self::AfterJournal,
        Self::AfterPuback,
        Self::AfterAttempt,
        Self::MidGeneration,
        Self::AfterResultRow,
        Self::AfterPublish,
        Self::BeforeDelivered,
    ];

    /// The name in `MOED_FAULT`.
    pub fn name(self) -> &'static str {
        match self {
            Self::AfterJournal => "after-journal",
            Self::AfterPuback => "after-puback",
            Self::AfterAttempt => "after-attempt",
            Self::MidGeneration => "mid-generation",
            Self::AfterResultRow => "after-result-row",
            Self::AfterPublish => "after-publish",
            Self::BeforeDelivered => "before-delivered",
        }
    }

    /// Kills the process here if a test asked for it.
    pub fn pass(self) {
        #[cfg(debug_assertions)]
        if armed::is_deadly(self.name()) {
            tracing::error!(point = self.name(), "killed by MOED_FAULT");
            // SIGKILL and not an abort: no handler and no buffer gets a chance, as in a power cut.
            if let Err(error) = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
            {
                tracing::error!(%error, "MOED_FAULT could not kill the process");
            }
        }
    }
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Whether this passing of the place is the deadly one.
    pub(super) fn is_deadly(place: &str) -> bool {
        static ARMED: OnceLock<Option<(String, u32)>> = OnceLock::new();
        static PASSED: AtomicU32 = AtomicU32::new(0);
        let armed = ARMED.get_or_init(|| {
            let text = std::env::var("MOED_FAULT").ok()?;
            let (place, passing) = text.split_once(':').unwrap_or((&text, "1"));
            Some((place.to_owned(), passing.parse().unwrap_or(1)))
        });
        armed
            .as_ref()
            .is_some_and(|(armed, passing)| armed == place && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *passing)
    }
}
