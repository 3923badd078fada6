//! The trait that the engine relies on, on the real runtime: whatever was copied, exchanged, kept and put back, a slot goes on
//! as a fresh sequence with the same tokens would; and a run can be ended from outside.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use harness::{Ran, onnxruntime, root};
use moed::engine::forward::{Forward, ForwardError, Row};
use moed::engine::session::{self, Described, Device, Kept, OnnxForward, Settings};
use moed::model::folder::Folder;
use moed::model::graph::Graph;
use moed::model::prepare::Patch;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

const SLOTS: usize = 4;
const BLOCKS: usize = 3;
const BLOCK_TOKENS: usize = 4;
const CONTEXT: usize = 48;

fn load(folder: &Path, settings: &Settings) -> OnnxForward {
    load_on(folder, settings, None)
}

fn load_on(folder: &Path, settings: &Settings, device: Option<Arc<Device>>) -> OnnxForward {
    session::load_runtime(&onnxruntime()).unwrap();
    OnnxForward::load_on(&Folder::load(folder).unwrap(), settings, device).unwrap()
}

/// A library that plays the device: garbage in fresh memory, copies that are done only when somebody waits for them.
fn device() -> Arc<Device> {
    // A copy for each: the library counts for the whole process what was taken.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    static LIBRARY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, library) = LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libcudart.so");
        let source = root().join("tests/harness/cudart.c");
        let mut cc = Command::new("cc");
        let built = Ran::of(cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source));
        assert_eq!(built.code, Some(0), "{}", built.stderr);
        (folder, library)
    });
    let own = library.with_extension(NEXT.fetch_add(1, Ordering::SeqCst).to_string());
    fs::copy(library, &own).unwrap();
    Device::open(&own, Described::Host).unwrap()
}

fn model(name: &str) -> PathBuf {
    root().join("models").join(name)
}

/// The tiny model, changed as preparation changes it.
fn patched(patches: &[Patch]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["genai_config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(model("tiny").join(file), folder.path().join(file)).unwrap();
    }
    let mut graph = Graph::read(&model("tiny").join("model.onnx")).unwrap();
    for patch in patches {
        patch.apply(&mut graph).unwrap();
    }
    fs::write(folder.path().join("model.onnx"), graph.bytes()).unwrap();
    folder
}

fn settings() -> Settings {
    Settings {
        slots: SLOTS,
        context: CONTEXT,
        row_max: 16,
        threads: 1,
        cache_bytes_max: 1 << 30,
        kept: Kept::Pieces(BLOCKS),
        block_tokens: BLOCK_TOKENS,
    }
}

/// One call of the trait; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Call {
    /// Reads tokens into a slot, after taking back some of what it holds.
    Read {
        slot: usize,
        back: usize,
        tokens: Vec<u32>,
    },
    /// One token into each of the slots from this one on, or as many as stated where rows may differ.
    Batch {
        slot: usize,
        lengths: Vec<usize>,
        token: u32,
    },
    Copy {
        from: usize,
        to: usize,
    },
    Exchange {
        one: usize,
        other: usize,
    },
    Keep {
        slot: usize,
        piece: usize,
        block: usize,
    },
    /// Puts a kept piece behind the first slot that holds what came before it.
    Use {
        block: usize,
    },
}

fn call() -> impl Strategy<Value = Call> {
    let tokens = prop::collection::vec(1_u32..250, 1..9);
    prop_oneof![
        3 => (0..SLOTS, 0_usize..8, tokens).prop_map(|(slot, back, tokens)| Call::Read { slot, back, tokens }),
        3 => (0..SLOTS, prop::collection::vec(1_usize..7, 1..=SLOTS), 1_u32..240)
            .prop_map(|(slot, lengths, token)| Call::Batch { slot, lengths, token }),
        1 => (0..SLOTS, 0..SLOTS).prop_map(|(from, to)| Call::Copy { from, to }),
        1 => (0..SLOTS, 0..SLOTS).prop_map(|(one, other)| Call::Exchange { one, other }),
        2 => (0..SLOTS, 0_usize..8, 0..BLOCKS).prop_map(|(slot, piece, block)| Call::Keep { slot, piece, block }),
        2 => (0..BLOCKS).prop_map(|block| Call::Use { block }),
    ]
}

/// What a model should hold, beside the model.
struct Twin<'a> {
    forward: &'a mut OnnxForward,
    /// Scores may differ by this much: rounding.
    tolerance: f32,
    slots: Vec<Vec<u32>>,
    /// All tokens up to the end of each kept piece.
    blocks: Vec<Vec<u32>>,
}

impl<'a> Twin<'a> {
    fn new(forward: &'a mut OnnxForward, tolerance: f32) -> Self {
        Self { forward, tolerance, slots: vec![Vec::new(); SLOTS], blocks: vec![Vec::new(); BLOCKS] }
    }

    fn apply(&mut self, call: &Call, fresh: &mut OnnxForward) {
        let rewinds = self.forward.shape().rewinds;
        match call {
            Call::Read { slot, back, tokens } => {
                let held = self.slots[*slot].len();
                let past = if rewinds { held.saturating_sub(*back) } else { held };
                if past + tokens.len() > CONTEXT {
                    return;
                }
                self.slots[*slot].truncate(past);
                self.forward.forward(&[Row { slot: *slot, past, tokens, scores: 0 }]).unwrap();
                self.slots[*slot].extend(tokens);
            }
            Call::Batch { slot, lengths, token } => {
                let (ragged, scores_max) = (self.forward.shape().ragged, self.forward.shape().scores_max);
                let tokens: Vec<u32> = (*token..).take(6).collect();
                let rows: Vec<Row<'_>> = (*slot..SLOTS)
                    .zip(lengths)
                    .map(|(slot, length)| {
                        let tokens = &tokens[..if ragged { *length } else { 1 }];
                        Row { slot, past: self.slots[slot].len(), tokens, scores: (tokens.len() / 2).min(scores_max) }
                    })
                    .collect();
                if rows.iter().any(|row| row.past + row.tokens.len() > CONTEXT) {
                    return;
                }
                self.forward.forward(&rows).unwrap();
                for (index, row) in rows.iter().enumerate() {
                    self.slots[row.slot].extend(row.tokens);
                    self.compare(fresh, row.slot, index, row.scores);
                }
            }
            Call::Copy { from, to } if from != to => {
                self.forward.copy_slot(*from, *to, self.slots[*from].len());
                self.slots[*to] = self.slots[*from].clone();
            }
            Call::Exchange { one, other } if one != other => {
                let tokens = self.slots[*one].len().max(self.slots[*other].len());
                self.forward.exchange_slots(*one, *other, tokens);
                self.slots.swap(*one, *other);
            }
            Call::Keep { slot, piece, block } => {
                let held = self.slots[*slot].len();
                // A state goes with the piece, so there the piece must be the last that was read.
                let pieces = held / BLOCK_TOKENS;
                let whole = held.is_multiple_of(BLOCK_TOKENS);
                if pieces == 0 || (!rewinds && !whole) {
                    return;
                }
                let first = BLOCK_TOKENS * if rewinds { piece % pieces } else { pieces - 1 };
                self.forward.keep_block(*slot, first, *block);
                self.blocks[*block] = self.slots[*slot][..first + BLOCK_TOKENS].to_vec();
            }
            Call::Use { block } => {
                let Some(first) = self.blocks[*block].len().checked_sub(BLOCK_TOKENS) else { return };
                let before = &self.blocks[*block][..first];
                let fits = |held: &Vec<u32>| held.starts_with(before);
                if let Some(slot) = self.slots.iter().position(fits) {
                    self.forward.use_block(*block, slot, first);
                    self.slots[slot] = self.blocks[*block].clone();
                }
            }
            Call::Copy { .. } | Call::Exchange { .. } => {}
        }
    }

    /// Every slot's scores after three more tokens, two of them wanted.
    fn check(&mut self, fresh: &mut OnnxForward) {
        let next = [100, 101, 102];
        let scores = fresh.shape().scores_max.min(2);
        for slot in 0..SLOTS {
            let past = self.slots[slot].len();
            if past + next.len() <= CONTEXT {
                self.forward.forward(&[Row { slot, past, tokens: &next, scores }]).unwrap();
                self.slots[slot].extend(next);
                self.compare(fresh, slot, 0, scores);
            }
        }
    }

    /// The last run's scores of a row, the last `wanted` of its slot, against those of a fresh sequence read whole.
    fn compare(&mut self, fresh: &mut OnnxForward, slot: usize, row: usize, wanted: usize) {
        let held = &self.slots[slot];
        for place in 0..wanted {
            let length = held.len() - wanted + 1 + place;
            let mut past = 0;
            for piece in held[..length].chunks(16) {
                fresh.forward(&[Row { slot: 0, past, tokens: piece, scores: 1 }]).unwrap();
                past += piece.len();
            }
            let (had, expected) = (self.forward.scores(row, place), fresh.scores(0, 0));
            let difference = had.iter().zip(expected).map(|(a, b)| (a - *b).abs()).fold(0.0, f32::max);
            assert!(difference < self.tolerance, "slot {slot}, {length} tokens: scores differ by {difference}");
        }
    }
}

fn follows_any_calls(folder: &Path, cases: u32, tolerance: f32) {
    follows_any_calls_on(None, folder, cases, tolerance);
}

fn follows_any_calls_on(device: Option<Arc<Device>>, folder: &Path, cases: u32, tolerance: f32) {
    let forwards = RefCell::new((load_on(folder, &settings(), device), load(folder, &settings())));
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let result = runner.run(&prop::collection::vec(call(), 1..24), |calls| {
        let (forward, fresh) = &mut *forwards.borrow_mut();
        let mut twin = Twin::new(forward, tolerance);
        for call in &calls {
            twin.apply(call, fresh);
        }
        twin.check(fresh);
        Ok(())
    });
    assert!(result.is_ok(), "{}: {result:?}", folder.display());
}

#[test]
fn after_any_calls_a_slot_goes_on_as_a_fresh_sequence_would() {
    follows_any_calls(&model("tiny"), 64, 1e-3);
}

#[test]
fn with_rows_of_several_lengths_and_scores_on_request_too() {
    for patches in [&[Patch::QuerySeqlens][..], &[Patch::QuerySeqlens, Patch::ScoreRows], &[Patch::ScoreRows]] {
        let folder = patched(patches);
        assert_eq!(load(folder.path(), &settings()).shape().ragged, patches.contains(&Patch::QuerySeqlens));
        follows_any_calls(folder.path(), 48, 1e-3);
    }
}

/// Caches apart, states of fixed size, float16, windows: one family for each, and its ragged rows where it has any.
#[test]
fn with_every_form_of_cache_too() {
    for (family, tolerance) in [
        ("concat", 1e-3),
        ("lfm2-moe", 1e-3),
        ("qwen35-moe", 5e-3),
        ("llama-fp16", 0.05),
        ("gpt-oss", 1e-3),
        ("qwen3-moe", 1e-3),
        ("qwen3-pruned", 1e-3),
    ] {
        follows_any_calls(&model("families").join(family), 24, tolerance);
    }
}

/// No host code but the runtime's may look into a device's memory, and no run may begin before copies in it are done.
#[test]
fn with_caches_in_a_devices_memory_too() {
    let folder = patched(&[Patch::QuerySeqlens, Patch::ScoreRows]);
    follows_any_calls_on(Some(device()), folder.path(), 48, 1e-3);
    for (family, tolerance) in [("concat", 1e-3), ("lfm2-moe", 1e-3), ("llama-fp16", 0.05), ("gpt-oss", 1e-3)] {
        follows_any_calls_on(Some(device()), &model("families").join(family), 24, tolerance);
    }
}

#[test]
fn a_device_gives_back_all_that_was_taken_and_says_what_it_lacks() {
    let device = device();
    let before = device.memory().unwrap();
    let mut forward = load_on(&model("tiny"), &settings(), Some(Arc::clone(&device)));
    let during = device.memory().unwrap();
    assert!(before.free - during.free >= forward.shape().cache_bytes, "{before:?} {during:?}");
    forward.forward(&[Row { slot: 1, past: 0, tokens: &[1, 2, 3], scores: 1 }]).unwrap();
    let bytes = forward.shape().cache_bytes;
    drop(forward);
    assert_eq!(device.memory().unwrap(), before);

    let slots = usize::try_from(before.total * SLOTS as u64 / bytes).unwrap() * 2;
    let settings = Settings { slots, cache_bytes_max: u64::MAX, ..settings() };
    let folder = Folder::load(&model("tiny")).unwrap();
    let fault = OnnxForward::load_on(&folder, &settings, Some(Arc::clone(&device))).err().unwrap();
    assert!(fault.message.contains("bytes of the device's memory: out of memory (CUDA error 2)"), "{fault}");
    assert_eq!(device.memory().unwrap(), before);
}

#[test]
fn a_row_at_its_slots_end_needs_no_room_for_the_padding_of_others() {
    let folder = patched(&[Patch::QuerySeqlens, Patch::ScoreRows]);
    let (mut forward, mut fresh) = (load(folder.path(), &settings()), load(folder.path(), &settings()));
    let mut twin = Twin::new(&mut forward, 1e-3);
    let tokens: Vec<u32> = (1..=u32::try_from(CONTEXT).unwrap()).collect();
    for piece in tokens[..CONTEXT - 2].chunks(16) {
        twin.apply(&Call::Read { slot: 0, back: 0, tokens: piece.to_vec() }, &mut fresh);
    }
    // The first row has room for 2, the second for 48.
    twin.apply(&Call::Batch { slot: 0, lengths: vec![2, 6, 4], token: 9 }, &mut fresh);
    assert_eq!(twin.slots.iter().map(Vec::len).collect::<Vec<_>>(), [CONTEXT, 6, 4, 0]);
    twin.check(&mut fresh);
}

#[test]
fn a_run_that_is_stopped_ends_early_and_the_session_goes_on() {
    let mut forward = load(&model("default"), &Settings { row_max: 1024, context: 1024, ..settings() });
    let prompt: Vec<u32> = (0..1024).map(|index| index * 7 % 4000 + 1).collect();
    // The first half is in the cache already and must stay as it is.
    forward.forward(&[Row { slot: 0, past: 0, tokens: &prompt[..512], scores: 0 }]).unwrap();
    let rest = [Row { slot: 0, past: 512, tokens: &prompt[512..], scores: 1 }];
    forward.forward(&rest).unwrap();
    let expected = forward.scores(0, 0).to_vec();

    // A request that comes just before a run is not lost, and one that was meant for a run that is over can be forgotten.
    let stopper = forward.stopper();
    stopper.stop();
    assert!(matches!(forward.forward(&rest), Err(ForwardError::Stopped)));
    stopper.release();

    let (begin, begins) = std::sync::mpsc::sync_channel::<()>(0);
    let asking = std::thread::spawn({
        let stopper = Arc::clone(&stopper);
        move || {
            while begins.recv().is_ok() {
                // Into the run, most times: a request before it counts as well.
                std::thread::sleep(Duration::from_millis(2));
                stopper.stop();
            }
        }
    });
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut ended_early = false;
    while !ended_early && Instant::now() < deadline {
        begin.send(()).unwrap();
        match forward.forward(&rest) {
            Err(ForwardError::Stopped) => ended_early = true,
            Err(error) => panic!("{error}"),
            Ok(()) => stopper.release(),
        }
    }
    drop(begin);
    asking.join().unwrap();
    stopper.release();
    assert!(ended_early, "no run was stopped");
    forward.forward(&rest).unwrap();
    assert_eq!(forward.scores(0, 0), expected);
}
