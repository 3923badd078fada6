//! How large an expression is when its repetitions are written out. `(a{1000}){1000}` is 15 characters and a million steps.

use regex_syntax::ast::parse::Parser;
use regex_syntax::ast::{Ast, RepetitionKind, RepetitionRange};

use super::{GrammarError, Limits};

/// Checks a text before anything reads it.
pub(super) fn check_text(text: &str, what: &'static str, limits: &Limits) -> Result<(), GrammarError> {
    at_most(what, text.len(), limits.source_bytes)?;
    let brackets = text.bytes().filter(|byte| matches!(byte, b'(' | b'[' | b'{')).count();
    at_most("opening brackets", brackets, limits.brackets)
}

pub(super) fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), GrammarError> {
    if found <= limit { Ok(()) } else { Err(GrammarError::TooLarge { what, found, limit }) }
}

/// What a class of characters weighs: it is an automaton of its own, with states for each byte of UTF-8.
const CLASS_WEIGHT: usize = 16;

/// How large an expression is when its repetitions are written out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Characters and classes.
    pub(super) steps: usize,
    /// The same where a class is as many as it weighs.
    pub(super) weight: usize,
}

impl Size {
    const CHARACTER: Self = Self { steps: 1, weight: 1 };
    const CLASS: Self = Self { steps: 1, weight: CLASS_WEIGHT };

    pub(super) fn and(self, other: Self) -> Self {
        self.combine(other, usize::saturating_add)
    }

    fn times(self, count: usize) -> Self {
        self.combine(Self { steps: count, weight: count }, usize::saturating_mul)
    }

    fn combine(self, other: Self, how: fn(usize, usize) -> usize) -> Self {
        Self { steps: how(self.steps, other.steps), weight: how(self.weight, other.weight) }
    }

    /// What its repetitions add to its length.
    pub(super) fn repeats(self, expression: &str) -> usize {
        self.steps.saturating_sub(expression.len())
    }
}

/// The size of an expression, or why it is none. `flags` say how the compiler rewrites it.
pub(super) fn size(expression: &str, flags: &str) -> Result<Size, String> {
    size_as_it_stands(&llguidance::regex_to_lark(expression, flags))
}

/// The size of an expression that the compiler does not rewrite.
pub(super) fn size_as_it_stands(expression: &str) -> Result<Size, String> {
    Parser::new().parse(expression).map(|tree| size_of(&tree)).map_err(|error| error.kind().to_string())
}

fn size_of(tree: &Ast) -> Size {
    let sum = |trees: &[Ast]| trees.iter().map(size_of).fold(Size::default(), Size::and);
    match tree {
        Ast::Repetition(repetition) => {
            let times = match &repetition.op.kind {
                RepetitionKind::Range(
                    RepetitionRange::Exactly(most) | RepetitionRange::AtLeast(most) | RepetitionRange::Bounded(_, most),
                ) => usize::try_from(*most).unwrap_or(usize::MAX),
                _ => 1,
            };
            size_of(&repetition.ast).times(times.max(1))
        }
        Ast::Group(group) => size_of(&group.ast),
        Ast::Concat(concat) => sum(&concat.asts),
        Ast::Alternation(alternation) => sum(&alternation.asts),
        Ast::ClassUnicode(_) | Ast::ClassPerl(_) | Ast::ClassBracketed(_) | Ast::Dot(_) => Size::CLASS,
        _ => Size::CHARACTER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_written_out_through_groups_and_alternatives() {
        for (expression, count) in [
            ("abc", 0),
            ("a{1000}", 1000 - 7),
            ("(a{1000}){1000}", 1_000_000 - 15),
            ("(a{10}|b{20,}){2,3}", 3 * 30 - 19),
            (r"[(]a{3}\{9\}", 0),
            (r"(x[)(]{40}){50}", 50 * 41 - 15),
            ("a*b+c?", 0),
        ] {
            assert_eq!(size(expression, "").map(|size| size.repeats(expression)), Ok(count), "{expression}");
        }
        let huge = size("((a{1000}){1000}){1000}{1000}{1000}{1000}{1000}{1000}", "").unwrap();
        assert!(huge.steps > 1 << 60 && huge.weight > 1 << 60);
        assert_eq!(size(r"a.[b]{2}\w\pL", ""), Ok(Size { steps: 6, weight: 1 + 5 * CLASS_WEIGHT }));
        assert!(size("[", "").is_err() && size("(?=a)", "").unwrap_err().contains("look-around"));
    }
}
