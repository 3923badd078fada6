//! How many threads a step takes: measured, since on a small model one thread may be as fast as all, and is easier on
//! whoever shares the machine.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::engine::forward::{Forward, Row};
use crate::engine::runtime;
use crate::engine::session::{Kept, OnnxForward, Settings};
use crate::fault::Fault;
use crate::model::cache::write_whole;
use crate::model::folder::Folder;

/// Where a finding is kept, in the folder of the prepared copy that it was made with.
const FILE: &str = "threads.toml";
/// More than any finding needs.
const FILE_BYTES_MAX: u64 = 1 << 12;

/// Steps of one round, and rounds; the two candidates take turns, so that a disturbance hits both.
const STEPS: usize = 8;
const ROUNDS: usize = 6;
/// Steps before anything counts.
const WARM_STEPS: usize = 3;
/// A large model needs no more rounds: its steps are long enough to be told apart.
const TIME_MAX: Duration = Duration::from_secs(2);
/// Tokens before the first measured step.
const PAST: usize = 16;
/// All cores must be faster by this much in a hundred, or one thread is enough: what is left goes to the neighbours.
const MARGIN_PERCENT: u64 = 10;

/// What was measured, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    pub threads: usize,
    /// Cores that the process might use when it was measured.
    pub cores: usize,
    /// The median step, in microseconds, with one thread and with one for each core.
    pub one_us: u64,
    pub all_us: u64,
}

impl Finding {
    /// The rule.
    fn of(cores: usize, one_us: u64, all_us: u64) -> Self {
        let faster = all_us.saturating_mul(100 + MARGIN_PERCENT) < one_us.saturating_mul(100);
        Self { threads: if faster { cores } else { 1 }, cores, one_us, all_us }
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
    let context = settings.context.min(PAST + WARM_STEPS + ROUNDS * STEPS);
    let open = |threads| {
        let row_max = settings.row_max.min(context);
        OnnxForward::load(folder, &Settings { slots: 1, context, row_max, threads, kept: Kept::Pieces(0), ..*settings })
    };
    let failed = |error| Fault::config(format!("model `{}`: measuring its steps: {error}", folder.name));
    let mut candidates = [Candidate::new(open(1)?), Candidate::new(open(cores)?)];
    for candidate in &mut candidates {
        for _ in 0..WARM_STEPS {
            candidate.step().map_err(failed)?;
        }
        candidate.taken_us.clear();
    }
    let started = Instant::now();
    for _ in 0..ROUNDS {
        for candidate in &mut candidates {
            for _ in 0..STEPS {
                candidate.step().map_err(failed)?;
            }
        }
        if started.elapsed() > TIME_MAX {
            break;
        }
    }
    let [one, all] = candidates.map(|mut candidate| median(&mut candidate.taken_us));
    Ok(Finding::of(cores, one, all))
}

struct Candidate {
    forward: OnnxForward,
    past: usize,
    taken_us: Vec<u64>,
}

impl Candidate {
    fn new(forward: OnnxForward) -> Self {
        Self { forward, past: 0, taken_us: Vec::new() }
    }

    /// One decode step; the first reads what comes before it. A short context starts over.
    fn step(&mut self) -> Result<(), crate::engine::forward::ForwardError> {
        let shape = self.forward.shape();
        if self.past == 0 || self.past >= shape.context {
            self.past = PAST.min(shape.context - 1).min(shape.row_max);
            let tokens = vec![0; self.past];
            self.forward.forward(&[Row { slot: 0, past: 0, tokens: &tokens, scores: 1 }])?;
        }
        let started = Instant::now();
        self.forward.forward(&[Row { slot: 0, past: self.past, tokens: &[1], scores: 1 }])?;
        self.taken_us.push(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.past += 1;
        Ok(())
    }
}

fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_cores_are_taken_only_where_they_are_faster_by_a_margin() {
        assert_eq!(Finding::of(2, 980, 800).threads, 2);
        assert_eq!(Finding::of(2, 980, 930).threads, 1);
        assert_eq!(Finding::of(8, 18_000, 21_000).threads, 1);
        assert_eq!(Finding::of(8, 0, 0).threads, 1);
    }

    #[test]
    fn a_finding_is_kept_and_one_of_another_machine_or_no_finding_at_all_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path()), None);
        let finding = Finding::of(2, 980, 800);
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
