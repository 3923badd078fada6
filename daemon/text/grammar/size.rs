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

/// What an expression's repetitions come to, beyond its own length; or why it is none. `flags` say how the compiler rewrites it.
pub(super) fn repeats(expression: &str, flags: &str) -> Result<usize, String> {
    let written = steps_of(&llguidance::regex_to_lark(expression, flags))?;
    Ok(written.saturating_sub(expression.len()))
}

/// What an expression comes to that is compiled as it stands.
pub(super) fn steps_of(expression: &str) -> Result<usize, String> {
    Parser::new().parse(expression).map(|tree| steps(&tree)).map_err(|error| error.kind().to_string())
}

fn steps(tree: &Ast) -> usize {
    let sum = |trees: &[Ast]| trees.iter().map(steps).fold(0, usize::saturating_add);
    match tree {
        Ast::Repetition(repetition) => {
            let times = match &repetition.op.kind {
                RepetitionKind::Range(
                    RepetitionRange::Exactly(most) | RepetitionRange::AtLeast(most) | RepetitionRange::Bounded(_, most),
                ) => usize::try_from(*most).unwrap_or(usize::MAX),
                _ => 1,
            };
            steps(&repetition.ast).saturating_mul(times.max(1))
        }
        Ast::Group(group) => steps(&group.ast),
        Ast::Concat(concat) => sum(&concat.asts),
        Ast::Alternation(alternation) => sum(&alternation.asts),
        _ => 1,
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
            assert_eq!(repeats(expression, ""), Ok(count), "{expression}");
        }
        assert_eq!(
            repeats("((a{1000}){1000}){1000}{1000}{1000}{1000}{1000}{1000}", "").map(|count| count > 1 << 60),
            Ok(true)
        );
        assert!(repeats("[", "").is_err() && repeats("(?=a)", "").unwrap_err().contains("look-around"));
    }
}
