//! What a shape may cost. Each bound is checked before the work that it bounds, and a refusal says the limit and the number.

use llguidance::api::ParserLimits;

/// Bytes of one schema, expression or grammar as JSON text. Real signatures have 100 to 5,000.
const SOURCE_BYTES_MAX: usize = 64 << 10;
/// Bytes of all schemas of one request together.
const SOURCES_BYTES_MAX: usize = 512 << 10;
/// Schemas inside schemas. Compiling goes down with them.
const NESTING_MAX: usize = 32;
/// Values in all `enum`s of a schema, and alternatives in all its `anyOf`s and `oneOf`s.
const VALUES_MAX: usize = 5_000;
/// Properties of all objects of a schema.
const PROPERTIES_MAX: usize = 1_000;
/// `$ref`s in a schema. Compiling goes down along a chain of them.
const REFERENCES_MAX: usize = 500;
/// The highest count in `minItems`, `maxLength`, `minProperties` and the like.
const COUNT_MAX: usize = 10_000;
/// What all repetitions (`{n,m}`) of a shape's expressions come to when they are written out. Compiling takes some 10 µs for
/// each, and nothing inside the compiler bounds it.
const REPEATS_MAX: usize = 5_000;
/// What all expressions of a shape weigh: a character 1, a class of characters 16, written out. 32,000 times `\w` took 210 MB.
const WEIGHT_MAX: usize = 64 << 10;
/// `patternProperties` in a schema. Each is told from each: 40 take some 0.7 s, 900 more than six minutes.
const PATTERN_PROPERTIES_MAX: usize = 32;
/// The digits of a `multipleOf`, and those of the least common multiple of several that may meet. The automaton has a state for
/// each remainder: 1,000,003 took 42 s and 480 MB.
const MULTIPLE_MAX: usize = 10_000;
/// Opening brackets in an expression or a grammar. Parsing goes down with them.
const BRACKETS_MAX: usize = 2_000;
/// Terminals inside terminals of a Lark grammar. Compiling goes down with them.
const LEVELS_MAX: usize = 200;
/// Bytes of a Lark grammar whose terminals and their repetitions are written out; 1.5 MB take some 10 s to compile.
const WRITTEN_BYTES_MAX: usize = 128 << 10;
/// The same of all terminals together.
const ALL_WRITTEN_BYTES_MAX: usize = 512 << 10;
/// Bytes of a compiled shape's automata, by the library's count, before the first token. What is compiled stays in memory as
/// long as it is asked for, and each answer that runs has a copy.
const AUTOMATA_BYTES_MAX: usize = 32 << 20;
/// Steps of building the automata of a shape; the library counts 50,000 a millisecond.
const LEXER_FUEL_MAX: u64 = 1_000_000;
/// Symbols in a compiled grammar.
const GRAMMAR_SIZE_MAX: usize = 200_000;
/// Steps that one mask may take in the automata; the library counts 14,000 a millisecond.
const MASK_FUEL_MAX: u64 = 200_000;
/// Parser items that one mask may take.
const MASK_ITEMS_MAX: usize = 50_000;
/// Parser items at one place of the text: four a property that may come next, and as many as [`PROPERTIES_MAX`] asks for.
const ROW_ITEMS_MAX: usize = 5_000;
/// States that one answer's automata may grow to, 1 to 2 kB each.
const LEXER_STATES_MAX: usize = 20_000;

/// The bounds of one compilation and of the answers that it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub source_bytes: usize,
    pub sources_bytes: usize,
    pub nesting: usize,
    pub values: usize,
    pub properties: usize,
    pub references: usize,
    pub count: usize,
    pub repeats: usize,
    pub weight: usize,
    pub pattern_properties: usize,
    pub multiple: usize,
    pub brackets: usize,
    pub levels: usize,
    pub written_bytes: usize,
    pub all_written_bytes: usize,
    pub automata_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            source_bytes: SOURCE_BYTES_MAX,
            sources_bytes: SOURCES_BYTES_MAX,
            nesting: NESTING_MAX,
            values: VALUES_MAX,
            properties: PROPERTIES_MAX,
            references: REFERENCES_MAX,
            count: COUNT_MAX,
            repeats: REPEATS_MAX,
            weight: WEIGHT_MAX,
            pattern_properties: PATTERN_PROPERTIES_MAX,
            multiple: MULTIPLE_MAX,
            brackets: BRACKETS_MAX,
            levels: LEVELS_MAX,
            written_bytes: WRITTEN_BYTES_MAX,
            all_written_bytes: ALL_WRITTEN_BYTES_MAX,
            automata_bytes: AUTOMATA_BYTES_MAX,
        }
    }
}

/// The library's own bounds, behind ours.
pub(super) fn parser_limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: ROW_ITEMS_MAX,
        initial_lexer_fuel: LEXER_FUEL_MAX,
        step_lexer_fuel: MASK_FUEL_MAX,
        step_max_items: MASK_ITEMS_MAX,
        max_lexer_states: LEXER_STATES_MAX,
        max_grammar_size: GRAMMAR_SIZE_MAX,
        precompute_large_lexemes: true,
        // Its errors would carry the whole grammar, which is the caller's text.
        verbose_errors: false,
    }
}
