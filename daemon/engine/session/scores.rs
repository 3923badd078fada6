//! What a run leaves: scores, in the graph's own float, read where they lie or widened once.

use ndarray::{ArrayView3, s};

use crate::engine::binding::{Kind, Typed};
use crate::engine::forward::Row;
use crate::engine::raw::{Plain, Runner, Tensor};
use crate::engine::session::feed::Tensors;

pub(super) struct Scores {
    tensors: Tensors,
    kind: Kind,
    vocabulary: usize,
    /// Whether the scores are read where the run left them; else the wanted ones were gathered.
    direct: bool,
    gathered: Vec<f32>,
    /// Where each row's first wanted score begins.
    starts: Vec<usize>,
}

impl Scores {
    /// Room for the scores of so many positions.
    pub(super) fn new(runner: &Runner, logits: &Typed, vocabulary: usize, positions: usize) -> Result<Self, String> {
        Ok(Self {
            tensors: Tensors::new(runner, logits.kind, positions * vocabulary)?,
            kind: logits.kind,
            vocabulary,
            direct: true,
            gathered: Vec::new(),
            starts: Vec::new(),
        })
    }

    /// Forgets what the last step left. `whole`: this step is one run; in several, each overwrites what the one before left.
    pub(super) fn begin(&mut self, whole: bool) {
        self.direct = whole && self.kind == Kind::Float32;
        self.gathered.clear();
        self.starts.clear();
    }

    /// Makes the tensor for so many rows and scored positions current.
    pub(super) fn choose(&mut self, runner: &Runner, rows: usize, kept: usize) -> Result<(), String> {
        self.tensors.choose(runner, &[rows, kept, self.vocabulary])
    }

    pub(super) fn tensor(&self) -> Option<&Tensor> {
        self.tensors.tensor()
    }

    /// Takes what a run left for these rows, padded to `width`, of which the last `kept` positions were scored.
    pub(super) fn take(&mut self, runner: &Runner, rows: &[Row<'_>], width: usize, kept: usize) {
        if !self.direct {
            match self.kind {
                Kind::Float16 => self.gather(runner, rows, width, kept, half),
                Kind::Bfloat16 => self.gather(runner, rows, width, kept, brain),
                _ => self.gather(runner, rows, width, kept, |score: f32| score),
            }
            return;
        }
        for (index, row) in rows.iter().enumerate() {
            self.starts.push((index * kept + first_wanted(row, width, kept)) * self.vocabulary);
        }
    }

    /// Takes what a run left that scored just the wanted positions, row after row.
    pub(super) fn take_listed(&mut self, runner: &Runner, rows: &[Row<'_>]) {
        // Nothing was gathered yet where the scores are read where they lie.
        let mut first = self.gathered.len();
        if !self.direct {
            let length = rows.iter().map(|row| row.scores).sum::<usize>() * self.vocabulary;
            match self.kind {
                Kind::Float16 => {
                    self.gathered.extend(runner.read(self.tensors.slab(), 0, length).iter().map(|bits| half(*bits)));
                }
                Kind::Bfloat16 => {
                    self.gathered.extend(runner.read(self.tensors.slab(), 0, length).iter().map(|bits| brain(*bits)));
                }
                _ => self.gathered.extend_from_slice(runner.read::<f32>(self.tensors.slab(), 0, length)),
            }
        }
        for row in rows {
            self.starts.push(first);
            first += row.scores * self.vocabulary;
        }
    }

    /// Widens the wanted scores into a block of their own.
    fn gather<T: Plain>(
        &mut self,
        runner: &Runner,
        rows: &[Row<'_>],
        width: usize,
        kept: usize,
        widen: impl Fn(T) -> f32,
    ) {
        let left = runner.read(self.tensors.slab(), 0, rows.len() * kept * self.vocabulary);
        let left = ArrayView3::from_shape((rows.len(), kept, self.vocabulary), left)
            .expect("as many numbers as the three sizes have were read");
        for (row, positions) in rows.iter().zip(left.outer_iter()) {
            self.starts.push(self.gathered.len());
            let first = first_wanted(row, width, kept);
            let wanted = positions.slice(s![first..first + row.scores, ..]);
            self.gathered.extend(wanted.iter().map(|score| widen(*score)));
        }
    }

    /// The scores of a row after its `place`-th wanted token.
    pub(super) fn of<'a>(&'a mut self, runner: &'a mut Runner, row: usize, place: usize) -> &'a mut [f32] {
        let start = self.starts[row] + place * self.vocabulary;
        if self.direct {
            runner.write(self.tensors.slab(), start, self.vocabulary)
        } else {
            &mut self.gathered[start..start + self.vocabulary]
        }
    }
}

/// Which of a row's scored positions is the first that it wants. A row that wants none may have fewer scored positions than
/// padding.
fn first_wanted(row: &Row<'_>, width: usize, kept: usize) -> usize {
    kept.saturating_sub(width - row.tokens.len() + row.scores)
}

/// A bfloat16 is the upper half of a float32.
fn brain(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// A float16 as float32. Without branches, so that the compiler widens many at once; a crate for this would be a dependency
/// for eight lines.
fn half(bits: u16) -> f32 {
    // 2^112: the difference of the two exponents' biases. It also makes subnormal numbers normal.
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    // What would be 2^16 and more is infinity or no number.
    let special = if magnitude >= 65536.0 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | u32::from(bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "every float16 is a float64, so both sides are exact")]
    fn every_float16_widens_to_its_value() {
        for bits in 0..=u16::MAX {
            let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
            let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
            let value = f64::from(half(bits));
            match exponent {
                31 if mantissa == 0.0 => assert_eq!(value, sign * f64::INFINITY, "{bits:#x}"),
                31 => assert!(value.is_nan(), "{bits:#x}"),
                0 => assert_eq!(value, sign * mantissa * 2_f64.powi(-24), "{bits:#x}"),
                _ => assert_eq!(value, sign * (1.0 + mantissa / 1024.0) * 2_f64.powi(exponent - 15), "{bits:#x}"),
            }
        }
    }

    #[test]
    fn a_bfloat16_is_a_short_float32() {
        for value in [0.0_f32, -1.0, 3.5, f32::INFINITY, 2.0_f32.powi(-130)] {
            assert_eq!(brain(u16::try_from(value.to_bits() >> 16).unwrap()).to_bits(), value.to_bits());
        }
    }
}
