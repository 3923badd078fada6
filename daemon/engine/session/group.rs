//! Which rows share a run. Pure.

use crate::engine::forward::Row;

/// What one run can take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Whether rows may share a run at all.
    pub(super) together: bool,
    /// Positions that a slot has room for: a row that is padded to the longest one's width writes up to there.
    pub(super) capacity: usize,
    /// Padded tokens of a run: what ids and scores have room for.
    pub(super) tokens_max: usize,
}

impl Limits {
    /// How many of the first rows run together. At least one; a row that would be padded beyond its slot's end, or a batch
    /// beyond the scores' room, ends the run before it.
    pub(super) fn first(&self, rows: &[Row<'_>]) -> usize {
        if !self.together {
            return 1;
        }
        let (mut width, mut past) = (0, 0);
        for (index, row) in rows.iter().enumerate() {
            width = width.max(row.tokens.len());
            past = past.max(row.past);
            if index > 0 && (past + width > self.capacity || (index + 1) * width > self.tokens_max) {
                return index;
            }
        }
        rows.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(limits: &Limits, rows: &[(usize, usize)]) -> Vec<usize> {
        let tokens = [7; 64];
        let rows: Vec<Row<'_>> = (0..)
            .zip(rows)
            .map(|(slot, (past, length))| Row { slot, past: *past, tokens: &tokens[..*length], scores: 1 })
            .collect();
        let (mut left, mut found) = (&rows[..], Vec::new());
        while !left.is_empty() {
            let count = limits.first(left);
            found.push(count);
            left = &left[count..];
        }
        found
    }

    #[test]
    fn rows_run_together_until_padding_has_no_room() {
        let limits = Limits { together: true, capacity: 64, tokens_max: 24 };
        assert_eq!(groups(&limits, &[(10, 1), (20, 8), (0, 3)]), [3]);
        // Row 1 ends at 64 by itself, but padded to 8 it would end at 71; row 2 goes on its own then.
        assert_eq!(groups(&limits, &[(0, 8), (63, 1), (0, 8)]), [1, 1, 1]);
        // Two single tokens at the end need no padding.
        assert_eq!(groups(&limits, &[(63, 1), (63, 1), (0, 2)]), [2, 1]);
        // 3 rows of 8 fill the room for 24 tokens.
        assert_eq!(groups(&limits, &[(0, 8), (0, 8), (0, 8), (0, 8)]), [3, 1]);
        assert_eq!(groups(&Limits { together: false, ..limits }, &[(0, 1), (0, 1)]), [1, 1]);
    }
}
