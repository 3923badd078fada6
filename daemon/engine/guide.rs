//! What an answer may say next: a rule that some answers follow, and the worker that computes it beside the model.
//!
//! The engine knows no grammar and no schema; it asks a [`Guide`]. Which tokens are allowed is computed on a thread of its own
//! while the model runs, since both take their time and neither needs the other.

use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::text::grammar::{Constraint, Mask};

/// A rule over tokens, for one answer.
pub trait Guide: Send {
    /// Whether every token is allowed just now.
    fn is_free(&self) -> bool;

    /// Whether the answer is whole: nothing but its end may follow.
    fn is_over(&self) -> bool;

    /// Writes which tokens may come next.
    fn allow(&mut self, mask: &mut Mask) -> Result<(), String>;

    /// The token was chosen.
    fn accept(&mut self, token: u32) -> Result<(), String>;

    /// Tokens that must come next whatever the model says; none where there is a choice.
    fn forced(&mut self) -> Vec<u32>;
}

impl Guide for Constraint {
    fn is_free(&self) -> bool {
        self.is_free()
    }

    fn is_over(&self) -> bool {
        self.is_over()
    }

    fn allow(&mut self, mask: &mut Mask) -> Result<(), String> {
        self.mask_into(mask).map_err(|error| error.to_string())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        self.accept(token).map_err(|error| error.to_string())
    }

    fn forced(&mut self) -> Vec<u32> {
        self.forced()
    }
}

/// An answer's guide and what it allows next.
pub struct Guided {
    guide: Box<dyn Guide>,
    mask: Mask,
    state: State,
    /// Computing took so long once that it must not stand between two steps again.
    slow: bool,
}

/// Longer than this a rule must not keep the other answers waiting.
const INLINE_MAX: Duration = Duration::from_micros(500);

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// `mask` is not what may come next.
    Stale,
    /// `mask` is what may come next.
    Ready,
    /// The guide cannot go on.
    Broken(String),
}

impl Guided {
    /// Starts with a guide at the beginning of its answer.
    pub fn new(guide: Box<dyn Guide>) -> Self {
        Self { guide, mask: Mask::default(), state: State::Stale, slow: false }
    }

    /// Whether there is something to compute before the next token.
    pub fn is_due(&self) -> bool {
        self.state == State::Stale && !self.guide.is_free()
    }

    /// Whether the rule leaves everything open just now.
    pub fn is_free(&self) -> bool {
        self.guide.is_free()
    }

    /// Whether the answer is whole.
    pub fn is_over(&self) -> bool {
        self.guide.is_over()
    }

    /// Whether computing what may come next can take long: then nothing is guessed, since each guess needs it at once.
    pub fn is_slow(&self) -> bool {
        self.slow
    }

    /// Computes what may come next. A guide that panics here breaks its own answer and no other.
    pub fn compute(&mut self) {
        let started = Instant::now();
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| self.guide.allow(&mut self.mask)));
        self.state = match outcome {
            Ok(Ok(())) => State::Ready,
            Ok(Err(reason)) => State::Broken(reason),
            Err(_) => State::Broken("the rule panicked".to_owned()),
        };
        self.slow |= started.elapsed() > INLINE_MAX;
    }

    /// Takes away the scores of what may not come next.
    pub fn rule_out(&mut self, scores: &mut [f32]) -> Result<(), String> {
        if self.is_due() {
            self.compute();
        }
        match &self.state {
            State::Broken(reason) => return Err(reason.clone()),
            // Every token is allowed.
            State::Stale => return Ok(()),
            State::Ready => {}
        }
        self.mask.allowed().ban(scores);
        Ok(())
    }

    /// The token was chosen, or forced.
    pub fn accept(&mut self, token: u32) -> Result<(), String> {
        self.state = State::Stale;
        self.guide.accept(token)
    }

    /// Tokens that must come next.
    pub fn forced(&mut self) -> Vec<u32> {
        self.guide.forced()
    }
}

/// Computes guides beside the model.
pub struct Worker {
    /// Dropped first, so that the thread ends.
    work: Option<SyncSender<(usize, Box<Guided>)>>,
    done: Receiver<(usize, Box<Guided>)>,
    under_way: usize,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread. `room` is how many guides may be under way.
    pub fn start(room: usize) -> Result<Self, Fault> {
        let (work, inbox) = sync_channel::<(usize, Box<Guided>)>(room);
        let (outbox, done) = sync_channel(room);
        let thread = std::thread::Builder::new()
            .name("guides".to_owned())
            .spawn(move || {
                while let Ok((index, mut guided)) = inbox.recv() {
                    guided.compute();
                    if outbox.send((index, guided)).is_err() {
                        return;
                    }
                }
            })
            .map_err(|error| Fault::machine(format!("starting the guides' thread: {error}")))?;
        Ok(Self { work: Some(work), done, under_way: 0, thread: Some(thread) })
    }

    /// Hands a guide over; it comes back by [`Worker::collect`]. Never blocks while no more than `room` are under way.
    pub fn begin(&mut self, index: usize, guided: Box<Guided>) -> Result<(), Box<Guided>> {
        // The channel goes with the worker; without one the guide is handed back, as when the thread is gone.
        let Some(work) = &self.work else { return Err(guided) };
        work.send((index, guided)).map_err(|refused| refused.0.1)?;
        self.under_way += 1;
        Ok(())
    }

    /// The next guide that is done; `None` when all are back.
    pub fn collect(&mut self) -> Option<(usize, Box<Guided>)> {
        if self.under_way == 0 {
            return None;
        }
        self.under_way -= 1;
        self.done.recv().ok()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.work = None;
        // What is under way would block the thread's last sends.
        while self.collect().is_some() {}
        if let Some(thread) = self.thread.take() {
            // It catches what its guides do; there is nothing to learn from its end.
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Allows one token, then panics.
    struct Once(bool);

    impl Guide for Once {
        fn is_free(&self) -> bool {
            false
        }

        fn is_over(&self) -> bool {
            false
        }

        fn allow(&mut self, mask: &mut Mask) -> Result<(), String> {
            assert!(!self.0, "a second time");
            self.0 = true;
            *mask = Mask::new(70);
            mask.allow_only(&[35]);
            Ok(())
        }

        fn accept(&mut self, _: u32) -> Result<(), String> {
            Ok(())
        }

        fn forced(&mut self) -> Vec<u32> {
            Vec::new()
        }
    }

    #[test]
    fn what_is_not_allowed_loses_its_score_and_a_guide_that_panics_breaks_alone() {
        let mut worker = Worker::start(2).unwrap();
        assert!(worker.begin(7, Box::new(Guided::new(Box::new(Once(false))))).is_ok());
        let (index, mut guided) = worker.collect().unwrap();
        assert!(index == 7 && worker.collect().is_none());
        let mut scores = vec![1.0; 70];
        guided.rule_out(&mut scores).unwrap();
        let left: Vec<usize> = (0..70).filter(|token| scores[*token] > 0.0).collect();
        assert_eq!(left, [35]);
        guided.accept(35).unwrap();
        assert!(worker.begin(1, guided).is_ok());
        let (_, mut guided) = worker.collect().unwrap();
        assert!(guided.rule_out(&mut scores).unwrap_err().contains("panicked"));
        // The worker goes on.
        assert!(worker.begin(2, Box::new(Guided::new(Box::new(Once(false))))).is_ok());
        assert_eq!(worker.collect().map(|(index, _)| index), Some(2));
    }
}
