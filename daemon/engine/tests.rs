//! The engine above [`Forward`], with the scripted double: no runtime, exact tokens.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::mpsc;

use super::pace::Pace;
use super::prefix::Scope;
use super::scripted::ScriptedForward;
use super::sequence::EVENTS_BESIDE_TOKENS;
use super::*;
use crate::fault::Code;
use crate::job::{CancelFlag, Event, Finish, JobId, Outcome, Sampling};
use crate::model::manifest::Golden;
use crate::text::grammar::Mask;

mod beginnings;
mod endings;
mod failures;
mod order;
mod oversight;
mod rules;

/// Work in a list.
struct List(VecDeque<Task>);

impl Source for List {
    fn take(&mut self, room: Room) -> Option<Task> {
        let front = self.0.front()?;
        let waits = room.running > 0 && front.alone || front.priority < room.least;
        if waits { None } else { self.0.pop_front() }
    }

    fn wait(&mut self, _: Duration) -> bool {
        !self.0.is_empty()
    }
}

const END: u32 = 258;

fn words() -> Words {
    Words { tokenizer: crate::text::test_tokenizer(), eos: vec![END] }
}

/// After a prompt that ends in a letter: the letters after it, up to `z`, then the end.
fn alphabet() -> scripted::Script {
    Box::new(|tokens| match tokens[tokens.len() - 1] {
        last if last < u32::from(b'z') => last + 1,
        _ => END,
    })
}

fn task(prompt: &str, max_tokens: usize) -> (Task, mpsc::Receiver<Event>) {
    let (events, receiver) = mpsc::channel(max_tokens + EVENTS_BESIDE_TOKENS);
    let task = Task {
        id: JobId::next(),
        prompt: prompt.bytes().map(u32::from).collect(),
        max_tokens,
        min_tokens: 0,
        ignore_eos: false,
        sampling: Sampling::default(),
        seed: 1,
        stop: Vec::new(),
        deadline: None,
        submitted: Instant::now(),
        cancel: CancelFlag::default(),
        priority: Priority::Interactive,
        exact: false,
        scope: Scope::default(),
        guide: None,
        alone: false,
        weigh: false,
        whole: false,
        events,
    };
    (task, receiver)
}

fn stepper(forward: ScriptedForward, chunk: usize) -> Stepper {
    Stepper::new(Box::new(forward), words(), plan(chunk)).unwrap()
}

fn plan(chunk: usize) -> Plan {
    Plan { pace: Pace::unmeasured(chunk), reserve: 0, guesses: true }
}

fn run_all(stepper: &mut Stepper, source: &mut dyn Source) -> Turn {
    let vitals = Vitals::new();
    loop {
        match stepper.turn(source, &vitals) {
            Turn::Worked => {}
            end => return end,
        }
    }
}

/// Everything that was said: the text, and the end.
fn heard(receiver: &mut mpsc::Receiver<Event>) -> (String, Result<Outcome, Fault>) {
    let mut text = String::new();
    loop {
        match receiver.try_recv().expect("a job ends with an event") {
            Event::Started => {}
            Event::Text(piece) => text.push_str(&piece),
            Event::Finished(outcome) => return (text, Ok(outcome)),
            Event::Failed(fault) => return (text, Err(fault)),
            Event::Call(call) => panic!("the engine knows no calls: {call:?}"),
        }
    }
}

/// Says what `guide_text` says, whatever the model wants, then may end.
struct Spelling {
    left: Vec<u32>,
    /// How many of the letters come without a choice, from here on.
    forces: usize,
}

impl guide::Guide for Spelling {
    fn is_free(&self) -> bool {
        false
    }

    fn is_over(&self) -> bool {
        self.left.is_empty()
    }

    fn allow(&mut self, mask: &mut Mask) -> Result<(), String> {
        *mask = Mask::new(264);
        mask.allow_only(&[self.left.first().copied().unwrap_or(END)]);
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        if self.left.first() != Some(&token) {
            return Err(format!("{token} is not next"));
        }
        self.left.remove(0);
        Ok(())
    }

    fn forced(&mut self) -> Vec<u32> {
        self.left.iter().take(self.forces).copied().collect()
    }
}

fn spelling(text: &str, forces: usize) -> Box<dyn guide::Guide> {
    Box::new(Spelling { left: text.bytes().map(u32::from).collect(), forces })
}

#[test]
fn golden_prompts_must_give_their_tokens() {
    let golden = |expected: &[u32]| Golden {
        text: String::new(),
        prompt: vec![u32::from(b'w')],
        expected: BTreeMap::from([("cpu".to_owned(), expected.to_vec())]),
    };
    let mut forward = ScriptedForward::new(264, 64, 2, alphabet());
    let found = selfcheck::check(&mut forward, &[golden(&[120, 121, 122, END])], "cpu").unwrap();
    assert_eq!((found.golden, found.batch_invariant), (1, true));
    let fault = selfcheck::check(&mut forward, &[golden(&[120, 99])], "cpu").unwrap_err();
    assert!(fault.message.contains("golden prompt 1 gave token 121 at step 1, the manifest expects 99"), "{fault}");
    assert_eq!(selfcheck::check(&mut forward, &[golden(&[1])], "cuda").unwrap().golden, 0, "none for this provider");
}
