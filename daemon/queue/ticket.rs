//! What a caller holds for a job that was taken on: its events, and the ways to end it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use crate::fault::{Code, Fault, Kind};
use crate::job::{CancelFlag, Event, Finish, JobId, Tool};
use crate::queue::own::Held;
use crate::queue::passed_deadline;
use crate::queue::quota::Seat;
use crate::queue::room::Room;
use crate::text::dialect::{Piece, Splitter};
use crate::text::signature::misfit;

/// A job's events. Dropping it cancels the job.
pub struct Ticket {
    room: Arc<Room>,
    id: JobId,
    tools: Vec<Tool>,
    deadline: Option<Instant>,
    cancel: CancelFlag,
    events: mpsc::Receiver<Event>,
    /// Splits calls from text, where tools were offered.
    splitter: Option<Splitter>,
    ready: VecDeque<Event>,
    started: bool,
    over: bool,
    ahead: usize,
    prompt_tokens: usize,
    seed: u64,
    /// Calls of moed's own tools, until the answer is whole.
    held: Option<Held>,
    /// The caller's share of the house, given back with the ticket.
    _seat: Seat,
}

impl Ticket {
    #[expect(clippy::too_many_arguments, reason = "made in one place, from the fields of one job")]
    pub(super) fn new(
        room: Arc<Room>,
        id: JobId,
        tools: Vec<Tool>,
        deadline: Option<Instant>,
        cancel: CancelFlag,
        events: mpsc::Receiver<Event>,
        seed: u64,
        ahead: usize,
        prompt_tokens: usize,
        seat: Seat,
        held: Option<Held>,
    ) -> Self {
        let splitter = (!tools.is_empty()).then(|| Splitter::new(seed ^ prompt_tokens as u64));
        Self {
            room,
            id,
            tools,
            deadline,
            cancel,
            events,
            splitter,
            ready: VecDeque::new(),
            started: false,
            over: false,
            ahead,
            prompt_tokens,
            seed,
            held,
            _seat: seat,
        }
    }

    /// The job's name within this process.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The model that answers.
    pub fn model(&self) -> &str {
        &self.room.model
    }

    /// Jobs that were before it at submission, running ones included.
    pub fn ahead(&self) -> usize {
        self.ahead
    }

    /// What the conversation came to.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// The seed in use, drawn where the caller gave none.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A way to end the job from elsewhere: waiting, it fails with `cancelled`; started, it finishes with what it has.
    pub fn cancel_flag(&self) -> CancelFlag {
        self.cancel.clone()
    }

    /// The next event; `None` after the last. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.over |= matches!(event, Event::Finished(_) | Event::Failed(_));
                return Some(event);
            }
            if self.over {
                return None;
            }
            let event = if self.started { self.wait_for_event().await } else { self.wait_for_start().await };
            match event {
                Some(event) => self.digest(event),
                // The engine lets go of a job only after its last event; without one it died.
                None => self.ready.push_back(Event::Failed(Fault::bug("the engine stopped in the middle of the job"))),
            }
        }
    }

    /// Until the engine takes the job up, its end may come from here.
    async fn wait_for_start(&mut self) -> Option<Event> {
        let deadline = self.deadline.map(tokio::time::Instant::from_std);
        let fault = tokio::select! {
            biased;
            event = self.events.recv() => return event,
            () = self.cancel.raised() => Fault::new(Kind::Caller, Code::Cancelled, "cancelled before it was started"),
            () = sleep_until(deadline) => passed_deadline(),
        };
        if self.room.remove(self.id) {
            return Some(Event::Failed(fault));
        }
        // The engine was faster; it ends the job by the same flag or deadline.
        self.started = true;
        self.events.recv().await
    }

    /// Waits for what the engine says. When the deadline passes, the engine is told to look at the job now, not after the piece
    /// of the prompt that it is reading.
    async fn wait_for_event(&mut self) -> Option<Event> {
        let deadline = self.deadline.filter(|deadline| *deadline > Instant::now()).map(tokio::time::Instant::from_std);
        tokio::select! {
            biased;
            event = self.events.recv() => return event,
            () = sleep_until(deadline) => self.cancel.interrupt(),
        }
        self.events.recv().await
    }

    /// Splits text into text and calls, and judges the calls.
    fn digest(&mut self, event: Event) {
        self.started = true;
        let Some(splitter) = &mut self.splitter else {
            self.ready.push_back(event);
            return;
        };
        match event {
            Event::Text(text) => {
                let pieces = splitter.push(&text);
                self.give(pieces);
            }
            Event::Finished(mut outcome) => {
                if outcome.finish == Finish::Stop && splitter.is_inside() {
                    return self.fail_call("it ends in the middle of a call");
                }
                let pieces = splitter.finish();
                let calls = splitter.calls();
                self.give(pieces);
                if let Some(held) = self.held.take() {
                    for event in held.settle(outcome) {
                        match event {
                            Event::Finished(_) => self.give_end(event),
                            other => self.ready.push_back(other),
                        }
                    }
                    return;
                }
                if outcome.finish == Finish::Stop && calls > 0 {
                    outcome.finish = Finish::ToolCalls;
                }
                self.give_end(Event::Finished(outcome));
            }
            other => self.ready.push_back(other),
        }
    }

    fn give(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.ready.push_back(Event::Text(text)),
                Piece::Call(call) => match misfit(&call, &self.tools) {
                    None => match &mut self.held {
                        Some(held) => held.hold(call),
                        None => self.ready.push_back(Event::Call(call)),
                    },
                    Some(wrong) => return self.fail_call(&wrong),
                },
                Piece::Broken(text) => return self.fail_call(&format!("`{text}` is no call")),
            }
        }
    }

    /// A call that does not fit its tool is an error, never passed on as an answer.
    fn fail_call(&mut self, wrong: &str) {
        // The rest of the answer is of no use; the engine need not finish it.
        self.cancel.raise();
        self.give_end(Event::Failed(Fault::new(
            Kind::Machine,
            Code::Internal,
            format!("the model's answer is no valid call: {wrong}"),
        )));
    }

    /// The last event; whatever the engine says later is not passed on.
    fn give_end(&mut self, end: Event) {
        let over = self.ready.iter().any(|event| matches!(event, Event::Finished(_) | Event::Failed(_)));
        if !over {
            self.ready.push_back(end);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.started {
            self.room.remove(self.id);
        }
        // A running job ends because its channel closes; the engine need not read the rest of its prompt to notice.
        self.events.close();
        self.cancel.interrupt();
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
