//! Caches that the graph gives back longer than it took them: `[1, heads, past, head_size]` in, `[1, heads, past + width,
//! head_size]` out.
//!
//! Every slot has two sides. A run reads one and writes the other, then they change roles; a run that failed left the old one
//! whole. A side is packed, so the distance between two heads is the length of what it holds: taking tokens back, or putting
//! a kept piece behind others, packs anew into the other side. One sequence at a time, since lengths differ.

use crate::engine::binding::StatePair;
use crate::engine::forward::Row;
use crate::engine::raw::{Runner, Slab, Strips, Tensor};
use crate::engine::session::cache::Room;

pub(super) struct Apart {
    room: Room,
    states: Vec<State>,
    /// Which place of the slabs each slot uses: exchanging slots exchanges these.
    slots: Vec<Place>,
    past: Vec<Tensor>,
    present: Vec<Tensor>,
}

#[derive(Clone, Copy)]
struct Place {
    row: usize,
    /// Which side holds the past.
    side: usize,
    /// Positions it holds, and so the pitch of its strips.
    length: usize,
}

struct State {
    pair: StatePair,
    sides: [Slab; 2],
    kept: Slab,
}

impl State {
    fn at(&self, room: &Room, row: usize) -> usize {
        row * self.pair.row_bytes(room.capacity)
    }

    /// The strips of a packed side that holds `length` positions, from this position on.
    fn strips(&self, room: &Room, place: Place, side: usize, length: usize, first: usize) -> Strips<'_> {
        let skipped = if self.pair.is_fixed() { 0 } else { self.pair.strip_bytes(first) };
        Strips { slab: &self.sides[side], at: self.at(room, place.row) + skipped, pitch: self.pair.strip_bytes(length) }
    }

    fn block(&self, room: &Room, block: usize) -> Strips<'_> {
        let pitch = self.pair.strip_bytes(room.block_tokens);
        Strips { slab: &self.kept, at: block * self.pair.strips() * pitch, pitch }
    }
}

impl Apart {
    pub(super) fn new(states: &[StatePair], room: Room, runner: &Runner) -> Result<Self, String> {
        let states = states
            .iter()
            .map(|pair| {
                let side = || runner.cache(room.slots * pair.row_bytes(room.capacity));
                let kept = runner.cache(room.blocks * pair.row_bytes(room.block_tokens))?;
                Ok(State { pair: pair.clone(), sides: [side()?, side()?], kept })
            })
            .collect::<Result<_, String>>()?;
        let slots = (0..room.slots).map(|row| Place { row, side: 0, length: 0 }).collect();
        Ok(Self { room, states, slots, past: Vec::new(), present: Vec::new() })
    }

    /// Makes the row's tensors: exactly its past, and room for what comes out.
    pub(super) fn prepare(&mut self, runner: &mut Runner, row: &Row<'_>) -> Result<(), String> {
        if row.past == 0 {
            self.slots[row.slot].length = 0;
            let place = self.slots[row.slot];
            for state in self.states.iter().filter(|state| state.pair.is_fixed()) {
                let bytes = state.pair.row_bytes(0);
                runner.clear(&state.sides[place.side], place.row * bytes, bytes);
            }
        }
        self.pack(runner, row.slot, row.past, row.past);
        let place = self.slots[row.slot];
        self.past.clear();
        self.present.clear();
        for state in &self.states {
            let (pair, at) = (&state.pair, state.at(&self.room, place.row));
            let (past, present) = (&state.sides[place.side], &state.sides[1 - place.side]);
            self.past.push(runner.tensor(past, at, pair.kind, &pair.shape(1, row.past))?);
            self.present.push(runner.tensor(present, at, pair.kind, &pair.shape(1, row.past + row.tokens.len()))?);
        }
        Ok(())
    }

    pub(super) fn past(&self) -> &[Tensor] {
        &self.past
    }

    pub(super) fn present(&self) -> &[Tensor] {
        &self.present
    }

    /// The run is done: what it wrote is the past of the next.
    pub(super) fn commit(&mut self, row: &Row<'_>) {
        let place = &mut self.slots[row.slot];
        place.side = 1 - place.side;
        place.length = row.past + row.tokens.len();
    }

    /// Packs a slot's first `tokens` positions so that the slot holds `length`; what lies between is undefined.
    fn pack(&mut self, runner: &mut Runner, slot: usize, tokens: usize, length: usize) {
        let place = self.slots[slot];
        if place.length == length {
            return;
        }
        for state in &self.states {
            let source = state.strips(&self.room, place, place.side, place.length, 0);
            let target = state.strips(&self.room, place, 1 - place.side, length, 0);
            runner.copy(source, target, state.pair.strips(), state.pair.strip_bytes(tokens));
        }
        self.slots[slot] = Place { side: 1 - place.side, length, ..place };
    }

    pub(super) fn copy(&mut self, runner: &mut Runner, from: usize, to: usize, tokens: usize) {
        self.slots[to].length = tokens;
        let (source, target) = (self.slots[from], self.slots[to]);
        for state in &self.states {
            let one = state.strips(&self.room, source, source.side, source.length, 0);
            let other = state.strips(&self.room, target, target.side, tokens, 0);
            runner.copy(one, other, state.pair.strips(), state.pair.strip_bytes(tokens));
        }
    }

    pub(super) fn exchange(&mut self, one: usize, other: usize) {
        self.slots.swap(one, other);
    }

    pub(super) fn keep(&self, runner: &mut Runner, slot: usize, first: usize, block: usize) {
        let place = self.slots[slot];
        for state in &self.states {
            let source = state.strips(&self.room, place, place.side, place.length, first);
            let target = state.block(&self.room, block);
            runner.copy(source, target, state.pair.strips(), state.pair.strip_bytes(self.room.block_tokens));
        }
    }

    pub(super) fn forget(&self, runner: &mut Runner) {
        for state in &self.states {
            runner.give_back(&state.kept);
        }
    }

    pub(super) fn restore(&mut self, runner: &mut Runner, block: usize, slot: usize, first: usize) {
        self.pack(runner, slot, first, first + self.room.block_tokens);
        let place = self.slots[slot];
        for state in &self.states {
            let target = state.strips(&self.room, place, place.side, place.length, first);
            let source = state.block(&self.room, block);
            runner.copy(source, target, state.pair.strips(), state.pair.strip_bytes(self.room.block_tokens));
        }
    }
}
