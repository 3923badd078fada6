//! Named places at which a test may have the process killed, to show what a power cut there loses: nothing.
//!
//! `MOED_FAULT` names one place; it is read once, and in debug builds only. A release build has no traps.

/// A place between two steps of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// The accepted row is on disk, its PUBACK is not sent.
    AfterJournal,
    /// The PUBACK is on its way, the answer is not computed.
    AfterPuback,
    /// The attempt is counted on disk, as when a prompt kills the process.
    AfterAttempt,
    /// The answer is on disk, nothing of it is published.
    AfterResultRow,
    /// The answer is on its way, the broker has not acknowledged it.
    AfterPublish,
}

impl Trap {
    /// The name in `MOED_FAULT`.
    pub fn name(self) -> &'static str {
        match self {
            Self::AfterJournal => "after-journal",
            Self::AfterPuback => "after-puback",
            Self::AfterAttempt => "after-attempt",
            Self::AfterResultRow => "after-result-row",
            Self::AfterPublish => "after-publish",
        }
    }

    /// Kills the process here if a test asked for it.
    pub fn pass(self) {
        #[cfg(debug_assertions)]
        {
            use std::sync::OnceLock;
            static ARMED: OnceLock<Option<String>> = OnceLock::new();
            let armed = ARMED.get_or_init(|| std::env::var("MOED_FAULT").ok());
            if armed.as_deref() == Some(self.name()) {
                tracing::error!(point = self.name(), "killed by MOED_FAULT");
                // SIGKILL and not an abort: no handler and no buffer gets a chance, as in a power cut.
                if let Err(error) =
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                {
                    tracing::error!(%error, "MOED_FAULT could not kill the process");
                }
            }
        }
    }
}
