//! Promise 6 on the real runtime: what else runs, arrives and leaves changes no token of an answer that asked to be exact.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use harness::{onnxruntime, root};
use moed::engine::forward::Forward;
use moed::engine::guide::Guide;
use moed::engine::pace::Pace;
use moed::engine::prefix::Scope;
use moed::engine::selfcheck;
use moed::engine::sequence::{EVENTS_BESIDE_TOKENS, Task, Words};
use moed::engine::session::{self, Kept, OnnxForward, Settings};
use moed::engine::step::{Plan, Stepper, Turn};
use moed::engine::{Room, Source};
use moed::job::{CancelFlag, Event, JobId, Priority, Sampling};
use moed::model::folder::Folder;
use moed::model::graph::Graph;
use moed::model::prepare::Patch;
use moed::text::grammar::Mask;
use moed::text::tokenizer::Tokenizer;
use moed::vitals::Vitals;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use tokio::sync::mpsc;

const MIXES: u64 = 200;
const CONTEXT: usize = 256;

/// Jobs that arrive at their turn.
struct Arrivals {
    turn: usize,
    jobs: VecDeque<(usize, Task)>,
}

impl Source for Arrivals {
    fn take(&mut self, room: Room) -> Option<Task> {
        let (turn, task) = self.jobs.front()?;
        if *turn <= self.turn && task.priority >= room.least {
            self.jobs.pop_front().map(|(_, task)| task)
        } else {
            None
        }
    }

    fn wait(&mut self, _: Duration) -> bool {
        !self.jobs.is_empty()
    }
}

/// Numbers that are the same in every run.
struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, bound: u32) -> u32 {
        self.0.next_u32() % bound
    }
}

fn task(dice: &mut Dice, vocabulary: u32, exact: bool) -> (Task, mpsc::Receiver<Event>) {
    let max_tokens = dice.below(12) as usize + 3;
    // A third of the prompts begin alike, so that kept beginnings are used as well.
    let alike = if dice.below(3) == 0 { 40 } else { 0 };
    let length = dice.below(60) + 2;
    let prompt =
        (0..alike).map(|token| 20 + token).chain((0..length).map(|_| 10 + dice.below(vocabulary - 10))).collect();
    let ruled = !exact && dice.below(3) == 0;
    let max_tokens = if ruled { 60 } else { max_tokens };
    let guide: Option<Box<dyn Guide>> = ruled.then(|| Box::new(Parrot { left: 50, next: 65 }) as _);
    let (events, heard) = mpsc::channel(max_tokens + EVENTS_BESIDE_TOKENS);
    let task = Task {
        id: JobId::next(),
        prompt,
        max_tokens,
        min_tokens: 0,
        ignore_eos: true,
        sampling: Sampling { temperature: if dice.below(2) == 0 { 0.0 } else { 0.9 }, ..Sampling::default() },
        seed: u64::from(dice.below(1000)),
        stop: Vec::new(),
        deadline: None,
        submitted: Instant::now(),
        cancel: CancelFlag::default(),
        priority: if dice.below(8) == 0 { Priority::Alarm } else { Priority::Interactive },
        exact,
        scope: Scope::default(),
        guide,
        alone: false,
        weigh: false,
        whole: false,
        events,
    };
    (task, heard)
}

fn text(heard: &mut mpsc::Receiver<Event>) -> Option<String> {
    let mut text = String::new();
    loop {
        match heard.try_recv().ok()? {
            Event::Text(piece) => text.push_str(&piece),
            Event::Finished(_) => return Some(text),
            Event::Failed(fault) => panic!("{fault}"),
            _ => {}
        }
    }
}

/// Says `ababab…` for a while: what it forces is longer than a row of the model can be.
struct Parrot {
    left: usize,
    next: u32,
}

impl Guide for Parrot {
    fn is_free(&self) -> bool {
        false
    }

    fn is_over(&self) -> bool {
        self.left == 0
    }

    fn allow(&mut self, mask: &mut Mask) -> Result<(), String> {
        *mask = Mask::new(1 << 16);
        mask.allow_only(&[self.next]);
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        assert_eq!(token, self.next);
        self.left -= 1;
        self.next = 65 + 66 - token;
        Ok(())
    }

    fn forced(&mut self) -> Vec<u32> {
        // Every other choice is the model's, so that steps and pieces alternate.
        (0..(self.left.saturating_sub(1)).min(40))
            .map(|index| if index % 2 == 0 { self.next } else { 131 - self.next })
            .collect()
    }
}

/// The folder with the graph that is served after preparation: rows of several lengths, scores where they are wanted.
fn patched(name: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let original = Folder::load(&root().join("models").join(name)).unwrap();
    for entry in std::fs::read_dir(&original.path).unwrap().flatten() {
        // The manifest's digests are those of the graph as it was.
        if entry.file_type().unwrap().is_file() && entry.file_name() != "manifest.toml" {
            std::fs::copy(entry.path(), place.path().join(entry.file_name())).unwrap();
        }
    }
    let mut graph = Graph::read(&original.graph).unwrap();
    for patch in Patch::ALL {
        if patch.helps(&graph, Some(32)) {
            patch.apply(&mut graph).unwrap();
        }
    }
    let graph_name = original.graph.file_name().unwrap();
    std::fs::write(place.path().join(graph_name), graph.bytes()).unwrap();
    place
}

fn mixes(name: &str) {
    session::load_runtime(&onnxruntime()).unwrap();
    let home = patched(name);
    let folder = Folder::load(home.path()).unwrap();
    let context = CONTEXT.min(folder.context);
    let settings = Settings {
        slots: 10,
        context,
        row_max: 32,
        threads: 1,
        cache_bytes_max: 1 << 30,
        kept: Kept::Pieces(24),
        block_tokens: 8,
    };
    let mut forward = OnnxForward::load(&folder, &settings).unwrap();
    let found = selfcheck::check(&mut forward, &[], "cpu").unwrap();
    forward.learn(&found);
    let shape = forward.shape();
    assert!(
        shape.ragged && found.batch_invariant && found.chunk_invariant,
        "`{name}` is one of the models that promise it"
    );
    let vocabulary = u32::try_from(shape.vocabulary).unwrap();
    let tokenizer = Tokenizer::load(&folder.tokenizer).unwrap();
    // A pace at which guesses pay, so that the others do take the fast ways.
    let pace = Pace::of_costs(&[1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35]);
    let words = Words { tokenizer, eos: folder.eos_ids.clone() };
    let mut stepper = Stepper::new(Box::new(forward), words, Plan { pace, reserve: 1, guesses: true }).unwrap();
    let vitals = Vitals::new();
    let mut compared = 0;
    for mix in 0..MIXES {
        let mut dice = Dice(ChaCha8Rng::seed_from_u64(mix));
        let count = dice.below(9) as usize + 2;
        let kinds: Vec<bool> = (0..count).map(|_| dice.below(3) > 0).collect();
        // The same jobs twice: once alone, one after another; once as they come.
        let state = dice.0.clone();
        let mut alone = Vec::new();
        for exact in &kinds {
            let (task, mut heard) = task(&mut dice, vocabulary, *exact);
            let mut source = Arrivals { turn: 0, jobs: [(0, task)].into() };
            while stepper.turn(&mut source, &vitals) == Turn::Worked {}
            alone.push(text(&mut heard).unwrap());
        }
        dice.0 = state;
        let (tasks, mut heard): (Vec<Task>, Vec<_>) =
            kinds.iter().map(|exact| task(&mut dice, vocabulary, *exact)).unzip();
        let leavers: Vec<(usize, CancelFlag)> = tasks
            .iter()
            .filter(|task| !task.exact)
            .map(|task| (dice.below(20) as usize, task.cancel.clone()))
            .collect();
        let mut jobs: Vec<(usize, Task)> = tasks.into_iter().map(|task| (dice.below(25) as usize, task)).collect();
        jobs.sort_by_key(|(turn, _)| *turn);
        let mut source = Arrivals { turn: 0, jobs: jobs.into() };
        loop {
            for (_, flag) in leavers.iter().filter(|(turn, _)| *turn == source.turn) {
                flag.raise();
            }
            let turn = stepper.turn(&mut source, &vitals);
            source.turn += 1;
            if turn == Turn::Idle && source.jobs.is_empty() {
                break;
            }
            assert_ne!(turn, Turn::Broken);
        }
        for ((exact, alone), heard) in kinds.iter().zip(alone).zip(&mut heard) {
            let mixed = text(heard).expect("every job has an end");
            if *exact {
                assert_eq!(mixed, alone, "mix {mix} of `{name}`");
                compared += 1;
            }
        }
    }
    // The others did take the ways that an exact answer must not.
    for kind in ["mixed", "decode", "prefill"] {
        let steps = format!("moed_step_seconds_count{{kind=\"{kind}\"}}");
        assert!(vitals.numbers().iter().any(|(name, count)| *name == steps && *count > 0.0), "no `{kind}` step");
    }
    let forced = vitals.numbers().into_iter().find(|(name, _)| name == "moed_forced_tokens_total");
    assert!(forced.as_ref().is_some_and(|(_, count)| *count > 1000.0), "{forced:?}");
    assert!(compared > 400, "{compared} exact answers compared");
}

#[test]
fn two_hundred_random_mixes_change_no_token_of_the_default_model() {
    mixes("default");
}

#[test]
fn two_hundred_random_mixes_change_no_token_of_the_tiny_model() {
    mixes("tiny");
}
