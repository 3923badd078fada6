//! Beginnings of prompts that are kept: a system text, a list of tools or devices is read once and then copied.
//!
//! A prompt is cut into blocks of the same number of tokens; a block's key is a digest of its tokens, of every token before it
//! and of who may use it. So equal beginnings have equal keys and nothing else has. This is bookkeeping only: where a block's
//! numbers lie is the model's business ([`Forward::keep_block`](crate::engine::forward::Forward::keep_block)). Bounded by the
//! number of blocks; the one that was used longest ago makes room.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

/// Whose prompts share blocks. Equal scopes may notice each other's prompts by the time that a first token takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope(pub u64);

type Key = [u8; 32];

#[derive(Debug)]
struct Kept {
    key: Key,
    /// Read in runs that leave the bits which a prompt read alone leaves.
    exact: bool,
    used: u64,
}

/// A block to be copied out of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The position in the slot where it begins.
    pub first: usize,
    pub block: usize,
}

/// What is kept, and where.
#[derive(Debug)]
pub struct Prefixes {
    block_tokens: usize,
    places: Vec<Option<Kept>>,
    by_key: HashMap<Key, usize>,
    /// Places by their last use, the oldest first.
    by_use: BTreeMap<u64, usize>,
    /// Places that hold nothing.
    free: Vec<usize>,
    /// Rises with every use.
    clock: u64,
}

impl Prefixes {
    /// Room for `blocks` blocks of `block_tokens` tokens; with 0 blocks nothing is kept.
    pub fn new(blocks: usize, block_tokens: usize) -> Self {
        Self {
            block_tokens: block_tokens.max(1),
            places: (0..blocks).map(|_| None).collect(),
            by_key: HashMap::new(),
            by_use: BTreeMap::new(),
            free: (0..blocks).rev().collect(),
            clock: 0,
        }
    }

    /// Keeps nothing any more.
    pub fn clear(&mut self) {
        *self = Self::new(self.places.len(), self.block_tokens);
    }

    /// Tokens of a block.
    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// Whether anything can be kept.
    pub fn is_off(&self) -> bool {
        self.places.is_empty()
    }

    /// Blocks in use.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// The kept blocks that `tokens` begins with, in order, covering at most `most` tokens. `exact`: only those whose bits are
    /// the ones that reading alone leaves.
    pub fn find(&mut self, tokens: &[u32], scope: Scope, most: usize, exact: bool) -> Vec<usize> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut key = root(scope);
        for piece in tokens[..most.min(tokens.len())].chunks_exact(self.block_tokens) {
            key = extend(&key, piece);
            let Some(place) = self.by_key.get(&key).copied() else { break };
            if exact && !self.places[place].as_ref().is_some_and(|kept| kept.exact) {
                break;
            }
            found.push(place);
        }
        // The beginning last: it is the newest of its line and so outlives what builds on it.
        for place in found.iter().rev() {
            self.touch(*place);
        }
        found
    }

    /// What of the first `read` tokens is worth keeping and is not kept yet: each gets a place, and the caller copies it there.
    /// `exact_to`: the tokens up to here were read in runs that leave the bits of reading alone. `from`: blocks that begin
    /// before this position are not copied (their numbers are not at hand).
    pub fn keep(&mut self, tokens: &[u32], scope: Scope, from: usize, read: usize, exact_to: usize) -> Vec<Keep> {
        if self.is_off() {
            return Vec::new();
        }
        let mut line = Vec::new();
        let mut keeps = Vec::new();
        let begun = self.clock;
        let mut key = root(scope);
        for (index, piece) in tokens[..read.min(tokens.len())].chunks_exact(self.block_tokens).enumerate() {
            let first = index * self.block_tokens;
            let exact = first + self.block_tokens <= exact_to;
            key = extend(&key, piece);
            match self.by_key.get(&key).copied() {
                Some(place) => {
                    let kept = self.places[place].as_mut();
                    // A copy with the right bits is better than one without.
                    if first >= from
                        && exact
                        && let Some(kept) = kept.filter(|kept| !kept.exact)
                    {
                        kept.exact = true;
                        keeps.push(Keep { first, block: place });
                    }
                    self.touch(place);
                    line.push(place);
                }
                // What lies before the block is gone, and with it the way to find this one.
                None if first < from => break,
                None => {
                    // A prompt longer than all the room must not push out its own beginning.
                    let Some(place) = self.make_room(begun) else { break };
                    self.places[place] = Some(Kept { key, exact, used: 0 });
                    self.by_key.insert(key, place);
                    self.touch(place);
                    line.push(place);
                    keeps.push(Keep { first, block: place });
                }
            }
        }
        for place in line.iter().rev() {
            self.touch(*place);
        }
        keeps
    }

    fn touch(&mut self, place: usize) {
        if let Some(kept) = &mut self.places[place] {
            self.clock += 1;
            // 0: put there just now, and in no order yet.
            self.by_use.remove(&kept.used);
            kept.used = self.clock;
            self.by_use.insert(self.clock, place);
        }
    }

    /// A free place, or the one used longest ago, unless even that was used after `begun`.
    fn make_room(&mut self, begun: u64) -> Option<usize> {
        if let Some(place) = self.free.pop() {
            return Some(place);
        }
        let (used, place) = self.by_use.first_key_value().map(|(used, place)| (*used, *place))?;
        if used > begun {
            return None;
        }
        self.by_use.remove(&used);
        if let Some(kept) = self.places[place].take() {
            self.by_key.remove(&kept.key);
        }
        Some(place)
    }

    /// Whether the books add up, told from their sizes alone: for every turn.
    pub fn adds_up(&self) -> bool {
        self.by_key.len() == self.by_use.len() && self.by_key.len() + self.free.len() == self.places.len()
    }

    /// Everything that must hold and does not; looks at every block.
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !self.adds_up() {
            let (keys, uses, free) = (self.by_key.len(), self.by_use.len(), self.free.len());
            found.push(format!("{keys} keys, {uses} in order, {free} free, {} places", self.places.len()));
        }
        for (key, place) in &self.by_key {
            let kept = self.places.get(*place).and_then(Option::as_ref);
            if kept.is_none_or(|kept| kept.key != *key || self.by_use.get(&kept.used) != Some(place)) {
                found.push(format!("a key points at block {place}, which holds something else"));
            }
        }
        found
    }
}

fn root(scope: Scope) -> Key {
    Sha256::digest(scope.0.to_le_bytes()).into()
}

fn extend(key: &Key, piece: &[u32]) -> Key {
    let mut digest = Sha256::new_with_prefix(key);
    for token in piece {
        digest.update(token.to_le_bytes());
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Scope = Scope(0);

    fn prompt(start: u32, length: u32) -> Vec<u32> {
        (start..start + length).collect()
    }

    #[test]
    fn a_beginning_is_found_by_whoever_shares_its_scope() {
        let mut prefixes = Prefixes::new(8, 4);
        let first = prompt(10, 11);
        let keeps = prefixes.keep(&first, ALL, 0, 11, 11);
        assert_eq!(keeps.iter().map(|keep| keep.first).collect::<Vec<_>>(), [0, 4]);
        let mut second = first[..8].to_vec();
        second.extend([1, 2, 3, 4, 5]);
        assert_eq!(prefixes.find(&second, ALL, 13, true), [keeps[0].block, keeps[1].block]);
        assert_eq!(prefixes.find(&second, ALL, 7, true), [keeps[0].block], "no more than may be used");
        assert_eq!(prefixes.find(&second, Scope(1), 13, true), Vec::<usize>::new());
        assert_eq!(prefixes.find(&prompt(11, 11), ALL, 11, true), Vec::<usize>::new());
        assert!(prefixes.keep(&first, ALL, 0, 11, 11).is_empty(), "kept once");
    }

    #[test]
    fn rounded_blocks_serve_only_those_who_do_not_mind_and_give_way_to_exact_ones() {
        let mut prefixes = Prefixes::new(8, 4);
        let tokens = prompt(1, 8);
        prefixes.keep(&tokens, ALL, 0, 8, 4);
        assert_eq!(prefixes.find(&tokens, ALL, 8, true).len(), 1);
        assert_eq!(prefixes.find(&tokens, ALL, 8, false).len(), 2);
        assert_eq!(
            prefixes.keep(&tokens, ALL, 0, 8, 8),
            [Keep { first: 4, block: prefixes.find(&tokens, ALL, 8, false)[1] }]
        );
        assert_eq!(prefixes.find(&tokens, ALL, 8, true).len(), 2);
    }

    #[test]
    fn what_was_used_longest_ago_makes_room_and_a_beginning_outlives_what_builds_on_it() {
        let mut prefixes = Prefixes::new(3, 2);
        prefixes.keep(&prompt(0, 4), ALL, 0, 4, 4);
        prefixes.keep(&prompt(50, 4), ALL, 0, 4, 4);
        // The end of the first line went, its beginning stayed.
        assert_eq!(prefixes.find(&prompt(0, 4), ALL, 4, true).len(), 1);
        assert_eq!(prefixes.find(&prompt(50, 4), ALL, 4, true).len(), 2);
        assert_eq!(prefixes.keep(&prompt(90, 40), ALL, 0, 40, 40).len(), 3, "a long prompt keeps its own beginning");
        assert_eq!(prefixes.find(&prompt(90, 40), ALL, 40, true).len(), 3);
        let mut none = Prefixes::new(0, 2);
        assert!(none.keep(&prompt(0, 4), ALL, 0, 4, 4).is_empty() && none.is_off());
    }

    proptest! {
        #[test]
        fn the_books_are_right_after_anything(steps in prop::collection::vec((0_u32..4, 0_u32..20, prop::bool::ANY), 1..60)) {
            let mut prefixes = Prefixes::new(5, 3);
            for (start, length, keep) in steps {
                let tokens = prompt(start, length);
                let read = tokens.len();
                if keep {
                    let keeps = prefixes.keep(&tokens, ALL, 0, read, read);
                    let mut blocks: Vec<usize> = keeps.iter().map(|keep| keep.block).collect();
                    blocks.sort_unstable();
                    blocks.dedup();
                    prop_assert_eq!(blocks.len(), keeps.len());
                }
                let found = prefixes.find(&tokens, ALL, read, false);
                prop_assert!(found.len() * 3 <= read);
                prop_assert_eq!(prefixes.violations(), Vec::<String>::new());
            }
        }
    }
}
