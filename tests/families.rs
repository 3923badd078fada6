//! Every family of decoders that the engine drives: tiny random checkpoints, exported, with the greedy tokens that PyTorch
//! gave for them. Alone, read in pieces and in ragged batches, the engine gives the same.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::fs;
use std::path::{Path, PathBuf};

use harness::{onnxruntime, root};
use moed::engine::forward::{Forward, Row};
use moed::engine::selfcheck;
use moed::engine::session::{self, Kept, OnnxForward, Settings};
use moed::fault::Fault;
use moed::model::folder::Folder;
use serde::Deserialize;

/// Rows of a batch, and slots.
const ROWS: usize = 4;
/// Prompt tokens read at once where a prompt is read in pieces: the least that leaves no single token.
const PIECE: usize = 3;

#[derive(Deserialize)]
struct References {
    /// Steps whose best token leads by less are a coin that rounding tosses.
    margin_least: f32,
    rows: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    margins: Vec<f32>,
}

fn families() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(root().join("models/families")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.join("references.json").is_file());
    found.sort();
    found
}

fn load(path: &Path) -> Result<OnnxForward, Fault> {
    session::load_runtime(&onnxruntime())?;
    let folder = Folder::load(path)?;
    let settings = Settings {
        slots: ROWS,
        context: folder.context.min(512),
        row_max: 128,
        threads: 1,
        cache_bytes_max: 1 << 30,
        kept: Kept::Pieces(2),
        block_tokens: 8,
    };
    let mut forward = OnnxForward::load(&folder, &settings)?;
    let found = selfcheck::check(&mut forward, &[], "cpu")?;
    forward.learn(&found);
    Ok(forward)
}

/// What comparing found out.
#[derive(Default)]
struct Tally {
    compared: usize,
    /// Steps whose recorded lead is under the bound.
    close: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn compare(&mut self, scores: &[f32], reference: &Reference, step: usize, margin_least: f32, how: &str) {
        if reference.margins[step] < margin_least {
            self.close += 1;
            return;
        }
        self.compared += 1;
        let best = (0_u32..).zip(scores).max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0))).unwrap().0;
        if best != reference.greedy[step] {
            self.wrong.push(format!(
                "{how}: after {:?} step {step} gave {best} instead of {}, which leads by {}",
                reference.prompt, reference.greedy[step], reference.margins[step]
            ));
        }
    }
}

/// Reads a prompt in pieces of at most `piece` tokens, none of a single one.
fn read(forward: &mut OnnxForward, slot: usize, prompt: &[u32], piece: usize) {
    let mut past = 0;
    while past < prompt.len() {
        let left = prompt.len() - past;
        let length = if left == piece + 1 { piece - 1 } else { left.min(piece) };
        forward.forward(&[Row { slot, past, tokens: &prompt[past..past + length], scores: 1 }]).unwrap();
        past += length;
    }
}

/// Every step goes on with the recorded token, so that each is compared whatever the one before gave.
fn alone(forward: &mut OnnxForward, references: &References, piece: usize, tally: &mut Tally) {
    let how = format!("alone, {piece} at once");
    for reference in &references.rows {
        read(forward, 0, &reference.prompt, piece);
        tally.compare(forward.scores(0, 0), reference, 0, references.margin_least, &how);
        for step in 1..reference.greedy.len() {
            let past = reference.prompt.len() + step - 1;
            forward.forward(&[Row { slot: 0, past, tokens: &reference.greedy[step - 1..step], scores: 1 }]).unwrap();
            tally.compare(forward.scores(0, 0), reference, step, references.margin_least, &how);
        }
    }
}

/// Four at a time, each with a prompt of its own length, decoded together.
fn together(forward: &mut OnnxForward, references: &References, tally: &mut Tally) {
    let shape = forward.shape();
    for four in references.rows.chunks(ROWS) {
        if shape.ragged {
            let rows: Vec<Row<'_>> = four
                .iter()
                .enumerate()
                .map(|(slot, reference)| Row { slot, past: 0, tokens: &reference.prompt, scores: 1 })
                .collect();
            forward.forward(&rows).unwrap();
            for (row, reference) in four.iter().enumerate() {
                tally.compare(forward.scores(row, 0), reference, 0, references.margin_least, "ragged prompts");
            }
        } else {
            for (slot, reference) in four.iter().enumerate() {
                read(forward, slot, &reference.prompt, shape.row_max);
                tally.compare(forward.scores(0, 0), reference, 0, references.margin_least, "prompts in turn");
            }
        }
        for step in 1..four[0].greedy.len() {
            let rows: Vec<Row<'_>> = four
                .iter()
                .enumerate()
                .map(|(slot, reference)| Row {
                    slot,
                    past: reference.prompt.len() + step - 1,
                    tokens: &reference.greedy[step - 1..step],
                    scores: 1,
                })
                .collect();
            forward.forward(&rows).unwrap();
            for (row, reference) in four.iter().enumerate() {
                tally.compare(forward.scores(row, 0), reference, step, references.margin_least, "batch");
            }
        }
    }
}

#[test]
fn every_family_gives_pytorchs_tokens_alone_in_pieces_and_in_batches() {
    let families = families();
    assert!(families.len() >= 10, "{} families", families.len());
    let mut report = Vec::new();
    let mut failed = false;
    for path in families {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let references: References = serde_json::from_slice(&fs::read(path.join("references.json")).unwrap()).unwrap();
        assert!(references.rows.len() >= 50, "{name} has {} references", references.rows.len());
        let mut forward = match load(&path) {
            Ok(forward) => forward,
            Err(fault) => {
                report.push(format!("{name}: {fault}"));
                failed = true;
                continue;
            }
        };
        let mut tally = Tally::default();
        alone(&mut forward, &references, 128, &mut tally);
        alone(&mut forward, &references, PIECE, &mut tally);
        together(&mut forward, &references, &mut tally);
        failed |= !tally.wrong.is_empty() || tally.compared < 100 * tally.close;
        report.push(format!(
            "{name}: {} compared, {} wrong, {} too close to tell; {:?}",
            tally.compared,
            tally.wrong.len(),
            tally.close,
            forward.shape()
        ));
        tally.wrong.truncate(3);
        report.extend(tally.wrong.iter().map(|line| format!("  {line}")));
    }
    assert!(!failed, "{}", report.join("\n"));
}

#[test]
fn a_folder_whose_graph_lost_its_experts_is_refused_by_name() {
    let mut refused = 0;
    for entry in fs::read_dir(root().join("models/families")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("broken-") {
            let fault = load(&entry.path()).err().unwrap_or_else(|| panic!("{name} was taken"));
            let reason = ["the export lost them", "no output depends on it"];
            assert!(reason.iter().any(|reason| fault.message.contains(reason)), "{name}: {fault}");
            assert!(fault.message.contains(&format!("model `{name}`")), "{name}: {fault}");
            refused += 1;
        }
    }
    assert!(refused >= 2, "{refused} folders are broken");
}
