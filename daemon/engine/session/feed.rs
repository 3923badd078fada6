//! What a run is fed beside its caches: ids, mask, positions, lengths. Tensors of shapes that come again are kept.

use std::collections::HashMap;

use crate::engine::binding::{Binding, Kind, Typed};
use crate::engine::forward::Row;
use crate::engine::raw::{Runner, Slab, Tensor};

/// Shapes that are kept of one input. Prompt pieces come in any length; a decode step has a few shapes, made again at once.
const SHAPES_MAX: usize = 64;

/// How wide the mask is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MaskWidth {
    /// As wide as the longest row has positions.
    Exact,
    /// Rounded up to a multiple of this: the same tensor serves many steps, and only what is new is written.
    Rounded(usize),
}

impl MaskWidth {
    pub(super) fn of(self, positions: usize, capacity: usize) -> usize {
        match self {
            Self::Exact => positions,
            Self::Rounded(step) => positions.next_multiple_of(step).min(capacity),
        }
    }
}

/// The tensors of one slab, by shape; the one that was used last is current.
pub(super) struct Tensors {
    slab: Slab,
    kind: Kind,
    kept: HashMap<[usize; 3], Tensor>,
    current: [usize; 3],
}

impl Tensors {
    pub(super) fn new(runner: &Runner, kind: Kind, elements: usize) -> Result<Self, String> {
        let slab = runner.slab(elements * kind.bytes())?;
        Ok(Self { slab, kind, kept: HashMap::new(), current: [0; 3] })
    }

    pub(super) fn slab(&self) -> &Slab {
        &self.slab
    }

    /// Makes the tensor of this shape, of up to three dimensions, current.
    pub(super) fn choose(&mut self, runner: &Runner, shape: &[usize]) -> Result<(), String> {
        let mut key = [usize::MAX; 3];
        key[..shape.len()].copy_from_slice(shape);
        if !self.kept.contains_key(&key) {
            if self.kept.len() >= SHAPES_MAX {
                self.kept.clear();
            }
            self.kept.insert(key, runner.tensor(&self.slab, 0, self.kind, shape)?);
        }
        self.current = key;
        Ok(())
    }

    pub(super) fn tensor(&self) -> Option<&Tensor> {
        self.kept.get(&self.current)
    }

    /// Writes whole numbers from the `first` element on.
    fn put(&self, runner: &mut Runner, first: usize, length: usize, values: impl Iterator<Item = usize>) {
        match self.kind {
            Kind::Int64 => {
                fill(runner.write(&self.slab, first, length), values, |value| i64::try_from(value).unwrap_or(i64::MAX));
            }
            Kind::Int32 => {
                fill(runner.write(&self.slab, first, length), values, |value| i32::try_from(value).unwrap_or(i32::MAX));
            }
            // A truth value; the binding lets no other kind through.
            _ => fill(runner.write(&self.slab, first, length), values, |value| u8::from(value != 0)),
        }
    }
}

fn fill<T>(places: &mut [T], values: impl Iterator<Item = usize>, convert: impl Fn(usize) -> T) {
    for (place, value) in places.iter_mut().zip(values) {
        *place = convert(value);
    }
}

/// A mask that remembers what it says, so that a step writes one number a row.
struct Mask {
    tensors: Tensors,
    policy: MaskWidth,
    width: usize,
    /// Ones at the begin of each row.
    ones: Vec<usize>,
}

impl Mask {
    fn fill(&mut self, runner: &mut Runner, rows: &[Row<'_>], width: usize) -> Result<(), String> {
        if width != self.width {
            self.width = width;
            self.ones.fill(0);
            let elements = self.ones.len() * width;
            self.tensors.put(runner, 0, elements, std::iter::repeat_n(0, elements));
        }
        for (index, row) in rows.iter().enumerate() {
            let (had, wants) = (self.ones[index], row.past + row.tokens.len());
            let (first, last, value) = if wants > had { (had, wants, 1) } else { (wants, had, 0) };
            self.tensors.put(runner, index * width + first, last - first, std::iter::repeat_n(value, last - first));
            self.ones[index] = wants;
        }
        self.tensors.choose(runner, &[rows.len(), width])
    }
}

/// All inputs but the caches.
pub(super) struct Feed {
    ids: Tensors,
    mask: Option<Mask>,
    /// With the planes of positions that the graph wants: 1, or 3 in an outer dimension.
    positions: Option<(Tensors, usize)>,
    lengths: Option<Tensors>,
    /// With its rank.
    keep: Option<(Tensors, usize)>,
    /// Which positions are scored.
    scored: Option<Tensors>,
    capacity: usize,
}

/// How large a run may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) rows: usize,
    /// Padded tokens of all rows.
    pub(super) tokens: usize,
    pub(super) capacity: usize,
}

impl Feed {
    pub(super) fn new(runner: &Runner, binding: &Binding, extent: Extent, policy: MaskWidth) -> Result<Self, String> {
        let make = |input: &Typed, elements: usize| Tensors::new(runner, input.kind, elements);
        let mask = binding.attention_mask.as_ref().map(|input| {
            let tensors = make(input, extent.rows * extent.capacity)?;
            Ok::<_, String>(Mask { tensors, policy, width: 0, ones: vec![0; extent.rows] })
        });
        let positions = binding.position_ids.as_ref().map(|input| {
            let planes = if input.rank == 3 { 3 } else { 1 };
            Ok::<_, String>((make(input, planes * extent.tokens)?, planes))
        });
        let keep = binding.logits_to_keep.as_ref().map(|input| Ok::<_, String>((make(input, 1)?, input.rank)));
        Ok(Self {
            ids: make(&binding.input_ids, extent.tokens)?,
            mask: mask.transpose()?,
            positions: positions.transpose()?,
            lengths: binding.query_lengths.as_ref().map(|input| make(input, extent.rows)).transpose()?,
            keep: keep.transpose()?,
            scored: binding.score_rows.as_ref().map(|input| make(input, extent.tokens)).transpose()?,
            capacity: extent.capacity,
        })
    }

    /// Writes the rows, padded on the right to `width`, of which the graph shall score the last `kept` positions.
    pub(super) fn fill(
        &mut self,
        runner: &mut Runner,
        rows: &[Row<'_>],
        width: usize,
        kept: usize,
    ) -> Result<(), String> {
        for (index, row) in rows.iter().enumerate() {
            let padded = row.tokens.iter().map(|token| *token as usize).chain(std::iter::repeat(0));
            self.ids.put(runner, index * width, width, padded);
        }
        self.ids.choose(runner, &[rows.len(), width])?;
        if let Some(mask) = &mut self.mask {
            let positions = rows.iter().map(|row| row.past + row.tokens.len()).max().unwrap_or(0);
            let mask_width = mask.policy.of(positions, self.capacity);
            mask.fill(runner, rows, mask_width)?;
        }
        if let Some((tensors, planes)) = &mut self.positions {
            for index in 0..*planes * rows.len() {
                tensors.put(runner, index * width, width, rows[index % rows.len()].past..);
            }
            let shape = [*planes, rows.len(), width];
            tensors.choose(runner, if *planes == 1 { &shape[1..] } else { &shape })?;
        }
        if let Some(tensors) = &mut self.lengths {
            tensors.put(runner, 0, rows.len(), rows.iter().map(|row| row.tokens.len()));
            tensors.choose(runner, &[rows.len()])?;
        }
        if let Some((tensors, rank)) = &mut self.keep {
            tensors.put(runner, 0, 1, std::iter::once(kept));
            tensors.choose(runner, &[1][..*rank])?;
        }
        if let Some(tensors) = &mut self.scored {
            let wanted = (0..).zip(rows).flat_map(|(index, row): (usize, &Row<'_>)| {
                let end = index * width + row.tokens.len();
                end - row.scores..end
            });
            let count = rows.iter().map(|row| row.scores).sum::<usize>();
            // Kernels take no product without rows: where nothing is wanted, one position is scored in vain.
            tensors.put(runner, 0, count.max(1), wanted.chain(std::iter::repeat(0)));
            tensors.choose(runner, &[count.max(1)])?;
        }
        Ok(())
    }

    /// The tensors of what was filled in, in the order of [`Binding::input_names`].
    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let mask = self.mask.as_ref().and_then(|mask| mask.tensors.tensor());
        let positions = self.positions.as_ref().and_then(|(tensors, _)| tensors.tensor());
        let lengths = self.lengths.as_ref().and_then(Tensors::tensor);
        let keep = self.keep.as_ref().and_then(|(tensors, _)| tensors.tensor());
        let scored = self.scored.as_ref().and_then(Tensors::tensor);
        [self.ids.tensor(), mask, positions, lengths, keep, scored].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_as_wide_as_its_policy_says_and_never_wider_than_the_cache() {
        assert_eq!(MaskWidth::Exact.of(17, 1000), 17);
        assert_eq!(MaskWidth::Rounded(128).of(17, 1000), 128);
        assert_eq!(MaskWidth::Rounded(128).of(128, 1000), 128);
        assert_eq!(MaskWidth::Rounded(128).of(999, 1000), 1000);
    }
}
