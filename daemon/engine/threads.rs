//! How many threads a step takes: measured, since on a small model one thread may be as fast as all, and is easier on
//! whoever shares the machine.
//!
//! Both halves of an answer count: a step of one token has little to share out, a piece of a prompt has much.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::engine::forward::{Forward, ForwardError, Row};
use crate::engine::runtime;
use crate::engine::session::{Kept, OnnxForward, Settings};
use crate::fault::Fault;
use crate::model::cache::write_whole;
use crate::model::folder::Folder;

/// Where a finding is kept, in the folder of the prepared copy that it was made with.
const FILE: &str = "threads.toml";
/// More than any finding needs.
const FILE_BYTES_MAX: u64 = 1 << 12;

/// Rounds, each of a piece of a prompt and some steps after it; the two candidates take turns, so that a disturbance hits both.
const ROUNDS: usize = 6;
/// Tokens of the piece, and steps after it: what is asked of a device with its tools and names kept from before.
pub const PIECE: usize = 64;
const STEPS: usize = 8;
/// A large model needs no more rounds: its steps are long enough to be told apart.
const TIME_MAX: Duration = Duration::from_secs(2);
/// All cores must be faster by this much in a hundred, or one thread is enough: what is left goes to the neighbours.
const MARGIN_PERCENT: u64 = 10;

/// What was measured, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    pub threads: usize,
    /// Cores that the process might use when it was measured.
    pub cores: usize,
    /// With one thread.
    pub one: Taken,
    /// With one for each core.
    pub all: Taken,
}

/// Medians, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// A piece of a prompt.
    pub piece_us: u64,
    /// A step of one token.
    pub step_us: u64,
}

impl Taken {
    /// A short answer to a short question.
    fn answer_us(self) -> u64 {
        self.piece_us.saturating_add(self.step_us.saturating_mul(STEPS as u64))
    }
}

impl Finding {
    /// The rule.
    fn of(cores: usize, one: Taken, all: Taken) -> Self {
        let faster = all.answer_us().saturating_mul(100 + MARGIN_PERCENT) < one.answer_us().saturating_mul(100);
        Self { threads: if faster { cores } else { 1 }, cores, one, all }
    }

    /// Whether it says something about a machine with so many cores.
    fn fits(&self, cores: usize) -> bool {
        self.cores == cores && [1, cores].contains(&self.threads)
    }
}

/// The finding of an earlier start, or a new one. `None` where there is nothing to choose.
pub fn find(folder: &Folder, settings: &Settings, kept: Option<&Path>) -> Result<Option<Finding>, Fault> {
    let cores = runtime::cores();
    if cores == 1 {
        return Ok(None);
    }
    if let Some(finding) = kept.and_then(load).filter(|finding| finding.fits(cores)) {
        return Ok(Some(finding));
    }
    let finding = measure(folder, settings, cores)?;
    if let Some(kept) = kept
        && let Err(error) = toml::to_string(&finding)
            .map_err(std::io::Error::other)
            .and_then(|text| write_whole(&kept.join(FILE), &text))
    {
        // It is measured again at the next start.
        tracing::warn!(%error, folder = %kept.display(), "what was measured could not be kept");
    }
    Ok(Some(finding))
}

/// Forgets an earlier finding.
pub fn forget(kept: &Path) {
    // Where there is none, there is nothing to forget.
    std::fs::remove_file(kept.join(FILE)).ok();
}

fn load(kept: &Path) -> Option<Finding> {
    let path = kept.join(FILE);
    std::fs::metadata(&path).ok().filter(|meta| meta.len() <= FILE_BYTES_MAX)?;
    toml::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

fn measure(folder: &Folder, settings: &Settings, cores: usize) -> Result<Finding, Fault> {
    let context = settings.context.min(PIECE + STEPS);
    let open = |threads| {
        let row_max = settings.row_max.min(context);
        OnnxForward::load(folder, &Settings { slots: 1, context, row_max, threads, kept: Kept::Pieces(0), ..*settings })
    };
    let failed = |error| Fault::config(format!("model `{}`: measuring its steps: {error}", folder.name));
    let mut candidates = [Candidate::new(open(1)?), Candidate::new(open(cores)?)];
    for candidate in &mut candidates {
        // Nothing counts before everything was touched once.
        candidate.round().map_err(failed)?;
        candidate.pieces_us.clear();
        candidate.steps_us.clear();
    }
    let started = Instant::now();
    for _ in 0..ROUNDS {
        for candidate in &mut candidates {
            candidate.round().map_err(failed)?;
        }
        if started.elapsed() > TIME_MAX {
            break;
        }
    }
    let [one, all] = candidates.map(Candidate::taken);
    Ok(Finding::of(cores, one, all))
}

struct Candidate {
    forward: OnnxForward,
    pieces_us: Vec<u64>,
    steps_us: Vec<u64>,
}

impl Candidate {
    fn new(forward: OnnxForward) -> Self {
        Self { forward, pieces_us: Vec::new(), steps_us: Vec::new() }
    }

    /// A piece of a prompt, and as many steps after it as the context has room for.
    fn round(&mut self) -> Result<(), ForwardError> {
        let shape = self.forward.shape();
        let piece = PIECE.min(shape.row_max).min(shape.context - 1);
        let tokens = vec![1; piece];
        let mut run = |past, tokens: &[u32]| {
            let started = Instant::now();
            self.forward.forward(&[Row { slot: 0, past, tokens, scores: 1 }])?;
            Ok(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX))
        };
        self.pieces_us.push(run(0, &tokens)?);
        for past in piece..shape.context.min(piece + STEPS) {
            self.steps_us.push(run(past, &tokens[..1])?);
        }
        Ok(())
    }

    fn taken(mut self) -> Taken {
        Taken { piece_us: median(&mut self.pieces_us), step_us: median(&mut self.steps_us) }
    }
}

fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(piece_us: u64, step_us: u64) -> Taken {
        Taken { piece_us, step_us }
    }

    #[test]
    fn all_cores_are_taken_only_where_an_answer_is_faster_by_a_margin() {
        let threads = |cores, one, all| Finding::of(cores, one, all).threads;
        assert_eq!(threads(2, taken(11_900, 370), taken(7_100, 370)), 2, "the piece decides where steps are equal");
        assert_eq!(threads(2, taken(1000, 980), taken(980, 930)), 1);
        assert_eq!(threads(8, taken(50_000, 18_000), taken(45_000, 21_000)), 1);
        assert_eq!(threads(8, taken(0, 0), taken(0, 0)), 1);
        assert_eq!(threads(2, taken(u64::MAX, 1), taken(1, u64::MAX)), 1);
    }

    #[test]
    fn a_finding_is_kept_and_one_of_another_machine_or_no_finding_at_all_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path()), None);
        let finding = Finding::of(2, taken(980, 800), taken(500, 700));
        write_whole(&folder.path().join(FILE), &toml::to_string(&finding).unwrap()).unwrap();
        assert_eq!(load(folder.path()), Some(finding));
        assert!(finding.fits(2) && !finding.fits(4));
        assert!(!Finding { threads: 3, ..finding }.fits(2));
        std::fs::write(folder.path().join(FILE), "threads = many").unwrap();
        assert_eq!(load(folder.path()), None);
        forget(folder.path());
        assert!(!folder.path().join(FILE).exists());
    }
}
