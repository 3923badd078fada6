//! Caches that the graph writes in place: `[slots, heads, capacity, head_size]`, bound as past and as present.
//!
//! A sequence is a row of the slab and a batch is consecutive rows, so a run copies no cache. A fixed state is
//! `[slots, …]` and is overwritten by the run that read it.

use std::collections::HashMap;

use crate::engine::binding::StatePair;
use crate::engine::forward::Row;
use crate::engine::raw::{Runner, Slab, Strips, Tensor};
use crate::engine::session::cache::Room;

/// Ranges of rows whose tensors are kept. With 32 slots there are 528 ranges; a scheduler that keeps its slots together
/// uses a few dozen.
const VIEWS_MAX: usize = 128;

pub(super) struct InPlace {
    room: Room,
    states: Vec<State>,
    /// The tensors of a range of rows, `(first, count)` → one a state.
    views: HashMap<(usize, usize), Vec<Tensor>>,
    /// The range of the current run.
    range: (usize, usize),
}

struct State {
    pair: StatePair,
    slab: Slab,
    kept: Slab,
}

impl State {
    /// The strips of one slot from this position on, and how many bytes `positions` of them have.
    fn strips(&self, room: &Room, slot: usize, first: usize) -> Strips<'_> {
        let pitch = self.pair.strip_bytes(room.capacity);
        let skipped = if self.pair.is_fixed() { 0 } else { self.pair.strip_bytes(first) };
        Strips { slab: &self.slab, at: slot * self.pair.strips() * pitch + skipped, pitch }
    }

    fn block(&self, room: &Room, block: usize) -> Strips<'_> {
        let pitch = self.pair.strip_bytes(room.block_tokens);
        Strips { slab: &self.kept, at: block * self.pair.strips() * pitch, pitch }
    }
}

impl InPlace {
    pub(super) fn new(states: &[StatePair], room: Room, runner: &mut Runner) -> Result<Self, String> {
        let largest = states.iter().map(|pair| pair.row_bytes(room.capacity)).max().unwrap_or(0);
        runner.prepare_exchange(largest)?;
        let states = states
            .iter()
            .map(|pair| {
                let slab = runner.cache(room.slots * pair.row_bytes(room.capacity))?;
                let kept = runner.cache(room.blocks * pair.row_bytes(room.block_tokens))?;
                Ok(State { pair: pair.clone(), slab, kept })
            })
            .collect::<Result<_, String>>()?;
        Ok(Self { room, states, views: HashMap::new(), range: (0, 0) })
    }

    /// Makes the rows' tensors current, and the fixed states of rows that begin zero.
    pub(super) fn prepare(&mut self, runner: &mut Runner, rows: &[Row<'_>]) -> Result<(), String> {
        for state in self.states.iter().filter(|state| state.pair.is_fixed()) {
            let bytes = state.pair.row_bytes(0);
            for row in rows.iter().filter(|row| row.past == 0) {
                runner.clear(&state.slab, row.slot * bytes, bytes);
            }
        }
        self.range = (rows[0].slot, rows.len());
        if !self.views.contains_key(&self.range) {
            if self.views.len() >= VIEWS_MAX {
                self.views.clear();
            }
            let view = |state: &State| {
                let at = self.range.0 * state.pair.row_bytes(self.room.capacity);
                runner.tensor(&state.slab, at, state.pair.kind, &state.pair.shape(self.range.1, self.room.capacity))
            };
            let views = self.states.iter().map(view).collect::<Result<_, _>>()?;
            self.views.insert(self.range, views);
        }
        Ok(())
    }

    /// The states' tensors: past and present are the same.
    pub(super) fn tensors(&self) -> &[Tensor] {
        self.views.get(&self.range).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn copy(&self, runner: &mut Runner, from: usize, to: usize, tokens: usize) {
        for state in &self.states {
            let (source, target) = (state.strips(&self.room, from, 0), state.strips(&self.room, to, 0));
            runner.copy(source, target, state.pair.strips(), state.pair.strip_bytes(tokens));
        }
    }

    pub(super) fn exchange(&self, runner: &mut Runner, one: usize, other: usize, tokens: usize) {
        for state in &self.states {
            let (one, other) = (state.strips(&self.room, one, 0), state.strips(&self.room, other, 0));
            runner.swap(one, other, state.pair.strips(), state.pair.strip_bytes(tokens));
        }
    }

    pub(super) fn keep(&self, runner: &mut Runner, slot: usize, first: usize, block: usize) {
        for state in &self.states {
            let (source, target) = (state.strips(&self.room, slot, first), state.block(&self.room, block));
            runner.copy(source, target, state.pair.strips(), state.pair.strip_bytes(self.room.block_tokens));
        }
    }

    pub(super) fn forget(&self, runner: &mut Runner) {
        for state in &self.states {
            runner.give_back(&state.kept);
        }
    }

    pub(super) fn restore(&self, runner: &mut Runner, block: usize, slot: usize, first: usize) {
        for state in &self.states {
            let (source, target) = (state.block(&self.room, block), state.strips(&self.room, slot, first));
            runner.copy(source, target, state.pair.strips(), state.pair.strip_bytes(self.room.block_tokens));
        }
    }
}
