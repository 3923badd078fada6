//! The cache of all slots, in the form that the graph asks for, and the kept pieces of prompts beside it.

use crate::engine::binding::StatePair;
use crate::engine::forward::Row;
use crate::engine::raw::{Runner, Tensor};
use crate::engine::session::apart::Apart;
use crate::engine::session::inplace::InPlace;

/// How much the cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) slots: usize,
    /// Positions that a slot has room for.
    pub(super) capacity: usize,
    pub(super) blocks: usize,
    pub(super) block_tokens: usize,
}

/// How a graph takes and gives its caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// One buffer is past and present: a run writes its new positions into it.
    InPlace,
    /// What comes out is longer than what went in, and lies elsewhere.
    Apart,
}

impl Way {
    /// Bytes of all slots, and of all kept pieces.
    pub(super) fn bytes(self, states: &[StatePair], room: &Room) -> (u64, u64) {
        let sides = if self == Self::Apart { 2 } else { 1 };
        let slot: usize = states.iter().map(|state| state.row_bytes(room.capacity)).sum();
        let block: usize = states.iter().map(|state| state.row_bytes(room.block_tokens)).sum();
        let product = |count: usize, bytes: usize| (count as u64).saturating_mul(bytes as u64);
        (product(room.slots * sides, slot), product(room.blocks, block))
    }
}

pub(super) enum Cache {
    InPlace(InPlace),
    Apart(Apart),
}

impl Cache {
    pub(super) fn new(way: Way, states: &[StatePair], room: Room, runner: &mut Runner) -> Result<Self, String> {
        Ok(match way {
            Way::InPlace => Self::InPlace(InPlace::new(states, room, runner)?),
            Way::Apart => Self::Apart(Apart::new(states, room, runner)?),
        })
    }

    /// Makes ready for a run of these rows; caches that lie apart take one row.
    pub(super) fn prepare(&mut self, runner: &mut Runner, rows: &[Row<'_>]) -> Result<(), String> {
        match self {
            Self::InPlace(cache) => cache.prepare(runner, rows),
            Self::Apart(cache) => cache.prepare(runner, &rows[0]),
        }
    }

    pub(super) fn past(&self) -> &[Tensor] {
        match self {
            Self::InPlace(cache) => cache.tensors(),
            Self::Apart(cache) => cache.past(),
        }
    }

    pub(super) fn present(&self) -> &[Tensor] {
        match self {
            Self::InPlace(cache) => cache.tensors(),
            Self::Apart(cache) => cache.present(),
        }
    }

    /// The run that was prepared is done.
    pub(super) fn commit(&mut self, rows: &[Row<'_>]) {
        if let Self::Apart(cache) = self {
            cache.commit(&rows[0]);
        }
    }

    pub(super) fn copy(&mut self, runner: &mut Runner, from: usize, to: usize, tokens: usize) {
        match self {
            Self::InPlace(cache) => cache.copy(runner, from, to, tokens),
            Self::Apart(cache) => cache.copy(runner, from, to, tokens),
        }
    }

    pub(super) fn exchange(&mut self, runner: &mut Runner, one: usize, other: usize, tokens: usize) {
        match self {
            Self::InPlace(cache) => cache.exchange(runner, one, other, tokens),
            Self::Apart(cache) => cache.exchange(one, other),
        }
    }

    pub(super) fn keep(&mut self, runner: &mut Runner, slot: usize, first: usize, block: usize) {
        match self {
            Self::InPlace(cache) => cache.keep(runner, slot, first, block),
            Self::Apart(cache) => cache.keep(runner, slot, first, block),
        }
    }

    pub(super) fn forget(&mut self, runner: &mut Runner) {
        match self {
            Self::InPlace(cache) => cache.forget(runner),
            Self::Apart(cache) => cache.forget(runner),
        }
    }

    pub(super) fn restore(&mut self, runner: &mut Runner, block: usize, slot: usize, first: usize) {
        match self {
            Self::InPlace(cache) => cache.restore(runner, block, slot, first),
            Self::Apart(cache) => cache.restore(runner, block, slot, first),
        }
    }
}
