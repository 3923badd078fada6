//! Makes a model ready for this machine: the runtime is new enough, a prepared copy is made or found, its nodes run where they
//! should, and the number of threads is known.
//!
//! A copy is made once and compared before it is believed: its answers must be the original's, its golden tokens the expected
//! ones. A patch that does not hold is dropped and named. Where nothing can be written the model runs as it is, and the
//! log says why, with numbers.

use std::path::{Path, PathBuf};

use crate::engine::forward::{Forward, ForwardError, Row};
use crate::engine::provider::Provider;
use crate::engine::runtime::{self, Original, RuntimeBuild};
use crate::engine::sampler::most_likely;
use crate::engine::session::{Kept, OnnxForward, Settings};
use crate::engine::{operators, placement, threads};
use crate::fault::Fault;
use crate::model::cache::{Cache, Draft, Found, GRAPH, Stamp};
use crate::model::folder::Folder;
use crate::model::graph::Graph;
use crate::model::prepare::{FORMAT, Key, Patch, Source, cpu_of};

/// What is wished for.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Where copies are kept; `None`: none is to be made or used.
    pub cache: Option<&'a Path>,
    pub build: &'a RuntimeBuild,
    /// Whether a copy and a finding of an earlier start are thrown away first.
    pub afresh: Afresh,
}

/// Whether what an earlier start left is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afresh {
    Yes,
    No,
}

/// A model that can be loaded.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The folder, its graph the prepared one where there is one.
    pub folder: Folder,
    /// With the number of threads found.
    pub settings: Settings,
    pub prepared: Prepared,
    /// What was measured about threads, where it was asked for.
    pub finding: Option<threads::Finding>,
}

/// What came of preparation.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The graph to load.
    pub graph: PathBuf,
    /// Whether that is a prepared copy.
    pub optimised: bool,
    /// The copy's folder, where there is one.
    pub place: Option<PathBuf>,
    /// Bytes of the original's graph and weights.
    pub bytes: u64,
    /// What an operator should know: why there is no copy, what was made anew, which patch was dropped.
    pub notes: Vec<String>,
}

/// Scores of the copy may differ from the original's by this much: rounding of 8-bit activations, measured at most 0.12 on a
/// model of random weights. A wrong kernel or a wrong position moves scores by whole units.
pub const TOLERANCE: f32 = 0.5;
/// Golden prompts that are compared; all of them run again before READY.
const GOLDEN_MAX: usize = 4;
/// Weights up to this are loaded again to measure threads though there is no copy; more would double the memory at start.
const MEASURED_BYTES_MAX: u64 = 64 << 20;
/// Tokens of the made-up prompts, where there are no golden ones.
const PROBE_TOKENS: usize = 24;

/// Does all of it. `settings.threads` 0: measured. `say` hears what takes time while it happens.
pub fn ready(folder: &Folder, settings: &Settings, wish: &Wish<'_>, say: &mut dyn FnMut(&str)) -> Result<Ready, Fault> {
    let graph = Graph::read(&folder.graph)
        .map_err(|error| Fault::config(format!("model `{}`: `{}`: {error}", folder.name, folder.graph.display())))?;
    operators::check(&folder.name, &graph, wish.build, runtime::provider())?;
    let measured = Settings { threads: if settings.threads == 0 { 1 } else { settings.threads }, ..*settings };
    let prepared = prepared(folder, &graph, &measured, wish, say)?;
    // Its file may be large, and what comes now needs the memory.
    drop(graph);
    let folder = Folder { graph: prepared.graph.clone(), prepared: prepared.optimised, ..folder.clone() };
    placement::check(&folder, &measured)?;
    if settings.threads != 0 {
        return Ok(Ready { folder, settings: *settings, prepared, finding: None });
    }
    if runtime::provider() != Provider::Cpu {
        // What is left to the CPU beside a GPU is shapes and masks.
        return Ok(Ready { folder, settings: measured, prepared, finding: None });
    }
    let kept = prepared.place.as_deref();
    if let (Some(kept), Afresh::Yes) = (kept, wish.afresh) {
        threads::forget(kept);
    }
    // Measuring loads the model twice more: that is nothing where the weights are mapped from a copy or few.
    let finding = if kept.is_some() || prepared.bytes <= MEASURED_BYTES_MAX {
        threads::find(&folder, &measured, kept)?
    } else {
        None
    };
    let threads = finding.map_or_else(runtime::cores, |finding| finding.threads);
    Ok(Ready { folder, settings: Settings { threads, ..measured }, prepared, finding })
}

/// Finds or makes the prepared copy of a folder's graph.
fn prepared(
    folder: &Folder,
    graph: &Graph,
    settings: &Settings,
    wish: &Wish<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Prepared, Fault> {
    // A graph whose weights leave its folder is refused whether or not it is to be prepared.
    let source = Source::read(folder, graph)?;
    let bytes = source.bytes;
    let plain =
        |notes: Vec<String>| Prepared { graph: folder.graph.clone(), optimised: false, place: None, bytes, notes };
    let Some(root) = wish.cache else { return Ok(plain(Vec::new())) };
    let provider = runtime::provider();
    if provider != Provider::Cpu {
        // Packed weights are a matter of the CPU's kernels; a GPU packs them into memory of its own.
        return Ok(plain(Vec::new()));
    }
    let cpuinfo = match std::fs::read_to_string("/proc/cpuinfo") {
        Ok(text) => text,
        Err(error) => return Ok(plain(vec![format!("not prepared: `/proc/cpuinfo`: {error}")])),
    };
    let key = Key {
        model: source.digest.clone(),
        runtime: wish.build.identity(),
        provider: provider.name().to_owned(),
        cpu: cpu_of(&cpuinfo),
    };
    let work = Work { folder, settings, build: wish.build, key: &key, source: &source };
    let mut notes = Vec::new();
    match Cache::open(root, &folder.path)
        .and_then(|cache| work.find_or_make(&cache, graph, wish.afresh, &mut notes, say))
    {
        Ok(place) => Ok(Prepared { graph: place.join(GRAPH), optimised: true, place: Some(place), bytes, notes }),
        Err(reason) => {
            notes.push(format!(
                "not prepared, the model takes more memory and time to load: `{}`: {reason}",
                root.display()
            ));
            Ok(plain(notes))
        }
    }
}

/// One preparation.
struct Work<'a> {
    folder: &'a Folder,
    settings: &'a Settings,
    build: &'a RuntimeBuild,
    key: &'a Key,
    source: &'a Source,
}

impl Work<'_> {
    /// The folder of a copy that was compared just now.
    fn find_or_make(
        &self,
        cache: &Cache,
        graph: &Graph,
        afresh: Afresh,
        notes: &mut Vec<String>,
        say: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, String> {
        let place = cache.place(self.key);
        if afresh == Afresh::No
            && let Found::Whole(_) = cache.find(self.key)
        {
            return Ok(place);
        }
        let lock = cache.lock()?;
        // Another process may have made it while this one waited.
        if afresh == Afresh::No {
            match cache.find(self.key) {
                Found::Whole(_) => return Ok(place),
                Found::Bad(reason) => notes.push(format!("`{}` is made anew: {reason}", place.display())),
                Found::Nothing => {}
            }
        }
        enough(cache.room()?, self.source.room())?;
        say(&format!("preparing `{}` for this machine, once", self.folder.name));
        let before = self.answers(&self.folder.graph, false)?;
        let wanted: Vec<Patch> = if self.source.is_patchable() {
            Patch::ALL.into_iter().filter(|patch| patch.helps(graph, self.build.minor())).collect()
        } else {
            Vec::new()
        };
        let mut attempt = |patches: &[Patch]| -> Result<Draft, String> {
            let names: Vec<&str> = patches.iter().map(|patch| patch.name()).collect();
            say(&format!("patches [{}]: writing optimised graph and packed weights", names.join(", ")));
            let draft = cache.begin(&lock)?;
            self.write(graph, patches, &draft.folder)?;
            say("comparing its answers with the original's");
            let after = self.answers(&draft.folder.join(GRAPH), true)?;
            compare(&before, &after).map_err(|reason| format!("its answers are not the original's: {reason}"))?;
            Ok(draft)
        };
        let chosen = choose(wanted, &mut attempt)?;
        notes.extend(chosen.dropped.iter().cloned());
        let stamp = Stamp {
            format: FORMAT,
            key: self.key.name(),
            model: self.folder.name.clone(),
            folder: self.folder.path.canonicalize().unwrap_or_else(|_| self.folder.path.clone()),
            runtime: self.build.version.clone(),
            provider: self.key.provider.clone(),
            patches: chosen.patches.iter().map(|patch| patch.name().to_owned()).collect(),
            dropped: chosen.dropped,
            files: std::collections::BTreeMap::new(),
        };
        cache.finish(&lock, chosen.made, self.key, stamp)?;
        say(&format!("prepared in `{}`", place.display()));
        Ok(place)
    }

    /// Writes the patched, optimised graph.
    fn write(&self, graph: &Graph, patches: &[Patch], to: &Path) -> Result<(), String> {
        if patches.is_empty() {
            return runtime::save_optimised(&Original::File(&self.folder.graph), to);
        }
        let mut changed = graph.clone();
        for patch in patches {
            patch.apply(&mut changed).map_err(|error| error.to_string())?;
        }
        let beside = self.folder.graph.parent().unwrap_or(&self.folder.path);
        runtime::save_optimised(&Original::Bytes(&changed.bytes(), beside), to)
    }

    /// What a graph answers to the prompts that are compared.
    fn answers(&self, graph: &Path, prepared: bool) -> Result<Vec<Answer>, String> {
        let folder = Folder { graph: graph.to_path_buf(), prepared, ..self.folder.clone() };
        let settings = Settings { slots: 1, kept: Kept::Pieces(0), ..*self.settings };
        let mut forward = OnnxForward::load(&folder, &settings).map_err(|fault| fault.message)?;
        let prompts = prompts(&folder, &self.key.provider, forward.shape().context, forward.shape().vocabulary);
        let answered = prompts.into_iter().map(|prompt| answer(&mut forward, prompt));
        answered.collect::<Result<_, _>>().map_err(|error| error.to_string())
    }
}

/// Refuses to fill a disk.
fn enough(free: u64, needed: u64) -> Result<(), String> {
    if free < needed { Err(format!("{needed} bytes are needed, {free} are free")) } else { Ok(()) }
}

/// Token ids, and the tokens that must follow; none: only the scores are compared.
struct Prompt {
    tokens: Vec<u32>,
    expected: Vec<u32>,
}

/// What followed a prompt.
struct Answer {
    /// Scores after the prompt.
    scores: Vec<f32>,
    tokens: Vec<u32>,
    expected: Vec<u32>,
}

/// The folder's golden prompts for a provider, or two that any vocabulary has.
fn prompts(folder: &Folder, provider: &str, context: usize, vocabulary: usize) -> Vec<Prompt> {
    let golden = folder.manifest.iter().flat_map(|manifest| &manifest.golden);
    let golden: Vec<Prompt> = golden
        .filter_map(|golden| {
            let expected = golden.expected.get(provider)?.clone();
            Some(Prompt { tokens: golden.prompt.clone(), expected })
        })
        .filter(|prompt| prompt.tokens.len() + prompt.expected.len() <= context)
        .take(GOLDEN_MAX)
        .collect();
    if !golden.is_empty() {
        return golden;
    }
    let most = u32::try_from(vocabulary).unwrap_or(u32::MAX).max(2);
    let length = u32::try_from(PROBE_TOKENS.min(context).max(1)).unwrap_or(1);
    [3, 7]
        .into_iter()
        .map(|stride| Prompt {
            tokens: (1..=length).map(|at| (at * stride + 1) % most).collect(),
            expected: Vec::new(),
        })
        .collect()
}

fn answer(forward: &mut OnnxForward, prompt: Prompt) -> Result<Answer, ForwardError> {
    let (mut past, mut scores) = (0, Vec::new());
    for piece in prompt.tokens.chunks(forward.shape().row_max) {
        forward.forward(&[Row { slot: 0, past, tokens: piece, scores: 1 }])?;
        past += piece.len();
    }
    scores.extend_from_slice(forward.scores(0, 0));
    let mut tokens = Vec::with_capacity(prompt.expected.len());
    for _ in 0..prompt.expected.len() {
        let token = most_likely(forward.scores(0, 0)).unwrap_or(0);
        tokens.push(token);
        if tokens.len() < prompt.expected.len() {
            forward.forward(&[Row { slot: 0, past, tokens: &[token], scores: 1 }])?;
            past += 1;
        }
    }
    Ok(Answer { scores, tokens, expected: prompt.expected })
}

fn compare(before: &[Answer], after: &[Answer]) -> Result<(), String> {
    for (number, (before, after)) in (1..).zip(before.iter().zip(after)) {
        if before.scores.len() != after.scores.len() {
            return Err(format!("prompt {number}: {} scores instead of {}", after.scores.len(), before.scores.len()));
        }
        let pairs = before.scores.iter().zip(&after.scores);
        // `f32::max` would pass over what is no number.
        let worse = |most: f32, next: f32| if next > most || next.is_nan() { next } else { most };
        let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, worse);
        if difference.is_nan() || difference > TOLERANCE {
            return Err(format!("prompt {number}: scores differ by {difference}, the most is {TOLERANCE}"));
        }
        if let Some(at) = (0..after.expected.len()).find(|at| after.tokens.get(*at) != after.expected.get(*at)) {
            let (got, expected) = (after.tokens.get(at), after.expected[at]);
            return Err(format!("golden prompt {number}: token {got:?} at step {at}, expected {expected}"));
        }
    }
    Ok(())
}

/// What came of trying patches.
#[derive(Debug)]
struct Chosen<T> {
    made: T,
    patches: Vec<Patch>,
    /// A sentence for each patch that did not hold.
    dropped: Vec<String>,
}

/// Tries all patches together; where that does not hold, finds the one that breaks it and goes on without it.
fn choose<T>(
    mut patches: Vec<Patch>,
    attempt: &mut dyn FnMut(&[Patch]) -> Result<T, String>,
) -> Result<Chosen<T>, String> {
    let mut dropped = Vec::new();
    loop {
        let together = match attempt(&patches) {
            Ok(made) => return Ok(Chosen { made, patches, dropped }),
            Err(why) if patches.is_empty() => return Err(why),
            Err(why) => why,
        };
        let mut culprit = (patches.len() - 1, together);
        if patches.len() > 1 {
            for (index, patch) in patches.iter().enumerate() {
                if let Err(why) = attempt(&[*patch]) {
                    culprit = (index, why);
                    break;
                }
            }
        }
        let patch = patches.remove(culprit.0);
        dropped.push(format!("patch `{}` is dropped: {}", patch.name(), culprit.1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(scores: &[f32], tokens: &[u32], expected: &[u32]) -> Answer {
        Answer { scores: scores.to_vec(), tokens: tokens.to_vec(), expected: expected.to_vec() }
    }

    #[test]
    fn answers_agree_within_the_tolerance_and_golden_tokens_exactly() {
        let before = [answer(&[1.0, 2.0], &[7], &[7])];
        compare(&before, &[answer(&[1.1, 1.6], &[7], &[7])]).unwrap();
        let far = compare(&before, &[answer(&[1.0, 2.6], &[7], &[7])]).unwrap_err();
        assert!(far.contains("differ by 0.5999") && far.contains("the most is 0.5"), "{far}");
        assert!(compare(&before, &[answer(&[1.0, f32::NAN], &[7], &[7])]).is_err());
        assert!(compare(&before, &[answer(&[f32::NAN, 2.0], &[7], &[7])]).is_err());
        let other = compare(&before, &[answer(&[1.0, 2.0], &[8], &[7])]).unwrap_err();
        assert!(other.contains("golden prompt 1") && other.contains("expected 7"), "{other}");
        assert!(compare(&before, &[answer(&[1.0], &[7], &[7])]).is_err());
    }

    #[test]
    fn a_disk_without_room_is_left_alone_and_the_numbers_are_said() {
        enough(10, 10).unwrap();
        assert_eq!(enough(9, 10).unwrap_err(), "10 bytes are needed, 9 are free");
    }

    const TWO: [Patch; 2] = [Patch::AccuracyLevel, Patch::QuerySeqlens];

    #[test]
    fn a_patch_that_does_not_hold_is_dropped_by_name_and_the_others_stay() {
        let mut tried = Vec::new();
        let chosen = choose(TWO.to_vec(), &mut |patches| {
            tried.push(patches.to_vec());
            if patches.contains(&Patch::AccuracyLevel) { Err("other tokens".to_owned()) } else { Ok(patches.len()) }
        })
        .unwrap();
        assert_eq!((chosen.made, chosen.patches.as_slice()), (1, [Patch::QuerySeqlens].as_slice()));
        assert_eq!(chosen.dropped, ["patch `accuracy_level` is dropped: other tokens"]);
        assert_eq!(tried.len(), 3);
    }

    #[test]
    fn patches_that_hold_alone_but_not_together_lose_the_last_and_a_bare_copy_that_fails_is_an_error() {
        let chosen = choose(TWO.to_vec(), &mut |patches| {
            if patches.len() > 1 { Err("not together".to_owned()) } else { Ok(()) }
        })
        .unwrap();
        assert_eq!(chosen.patches, [Patch::AccuracyLevel]);
        assert!(chosen.dropped[0].contains("`query_seqlens` is dropped: not together"));
        let why = choose::<()>(Patch::ALL.to_vec(), &mut |_| Err("disk full".to_owned())).unwrap_err();
        assert_eq!(why, "disk full");
    }
}
