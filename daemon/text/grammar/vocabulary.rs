//! The words of one tokenizer as a tree of bytes, and the shapes that were compiled over it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::ParserFactory;
use toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use toktrie_hf_tokenizers::ByteTokenizer;

use super::cache::{Cache, Key, Verdict, digest};
use super::compile::Compiler;
use super::gate::Gate;
use super::{Constraint, GrammarError, Limits, Shape};
use crate::text::dialect;
use crate::text::tokenizer::{SEAM, Tokenizer};

/// The vocabulary of one tokenizer, ready to compile for. Cheap to clone.
#[derive(Clone)]
pub struct Vocabulary(Arc<Inner>);

struct Inner {
    factory: ParserFactory,
    marks: Marks,
    /// Tokens that end an answer; never empty.
    eos: Arc<[u32]>,
    /// Token ids are below this.
    size: usize,
    cache: Mutex<Cache>,
    gate: Gate,
}

/// How this vocabulary spells the marks of a call: the token, where it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) open: Option<u32>,
    pub(super) close: Option<u32>,
}

impl Vocabulary {
    /// Builds the tree, once at load. `vocabulary` is the width of the model's scores, `eos` its ends of sequence.
    pub fn new(tokenizer: &Tokenizer, eos: &[u32], vocabulary: usize) -> Result<Self, GrammarError> {
        let fail = |reason: String| GrammarError::Vocabulary(reason);
        if eos.is_empty() || eos.iter().any(|token| *token as usize >= vocabulary) {
            return Err(fail(format!("{} ends of sequence over {vocabulary} tokens", eos.len())));
        }
        // The library asserts where a vocabulary is not of its kinds.
        let built = catch_unwind(AssertUnwindSafe(|| build(tokenizer, eos, vocabulary)));
        let words = built.map_err(|_| fail("it is of no known kind".to_owned()))??;
        let marks = Marks {
            open: words.trie.get_special_token(dialect::OPEN),
            close: words.trie.get_special_token(dialect::CLOSE),
        };
        let environment: TokEnv = Arc::new(words);
        let mut factory = ParserFactory::new_simple(&environment).map_err(|error| fail(error.to_string()))?;
        factory.quiet();
        Ok(Self(Arc::new(Inner {
            factory,
            marks,
            eos: eos.into(),
            size: vocabulary,
            cache: Mutex::default(),
            gate: Gate::default(),
        })))
    }

    /// The constraint of one answer. A shape that was asked for before costs looking it up; a new one waits until no other is
    /// compiled, and then takes milliseconds, within the limits up to some seconds: call it where blocking is allowed.
    pub fn compile(&self, shape: &Shape, limits: &Limits) -> Result<Constraint, GrammarError> {
        let key = digest(shape, limits);
        let known = self.cache().get(&key);
        let verdict = match known {
            Some(verdict) => verdict,
            None => self.compile_new(shape, limits, key),
        };
        verdict.map(|blueprint| blueprint.constraint(&self.0.eos, self.0.size))
    }

    fn compile_new(&self, shape: &Shape, limits: &Limits, key: Key) -> Verdict {
        let _turn = self.0.gate.enter()?;
        // Of equal shapes that came together, the first was compiled for all.
        if let Some(verdict) = self.cache().get(&key) {
            return verdict;
        }
        let verdict = Compiler::new(&self.0.factory, self.0.marks, limits).compile(shape).map(Arc::new);
        // What the machine had no room for may be had later.
        if !matches!(verdict, Err(GrammarError::Machine(_))) {
            self.cache().put(key, verdict.clone());
        }
        verdict
    }

    /// Token ids are below this.
    pub fn size(&self) -> usize {
        self.0.size
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        // Nothing panics while it holds the lock.
        self.0.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary").field("size", &self.0.size).field("marks", &self.0.marks).finish_non_exhaustive()
    }
}

/// The tokenizer as the library wants it, over our own copy: a second one would be the largest thing in memory but the model.
struct Words {
    tokenizer: Tokenizer,
    trie: TokTrie,
    canonical: bool,
}

fn build(tokenizer: &Tokenizer, eos: &[u32], vocabulary: usize) -> Result<Words, GrammarError> {
    let library = ByteTokenizer::from_tokenizer(tokenizer.library())
        .map_err(|error| GrammarError::Vocabulary(error.to_string()))?;
    let mut words = library.token_bytes();
    drop(library);
    for word in &mut words {
        // The byte that marks special tokens in the tree is no byte of any text; a word of it and other bytes is none either.
        if word.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) && word.get(1).is_none_or(|byte| !byte.is_ascii()) {
            word.clear();
        }
    }
    // Scores may be wider than the vocabulary, or narrower where a head was pruned.
    words.resize(vocabulary, Vec::new());
    let size = u32::try_from(vocabulary).map_err(|_| GrammarError::Vocabulary(format!("{vocabulary} tokens")))?;
    let trie = TokTrie::from(&TokRxInfo::new(size, eos[0]), &words).with_eos_tokens(eos);
    let mut words = Words { tokenizer: tokenizer.clone(), trie, canonical: true };
    // A tokenizer that puts a space before every text cannot say how a piece in the middle is spelled. Nothing is forced then:
    // the mask alone leads the answer.
    words.canonical = ["a", "{\"", "\": ", " b"].into_iter().all(|piece| words.spell(piece).is_some());
    Ok(words)
}

impl Words {
    /// The ids of a text, where they stand for exactly its bytes: a normaliser may write the same text in other bytes.
    fn spell(&self, text: &str) -> Option<Vec<TokenId>> {
        if text.contains(SEAM) {
            return None;
        }
        let ids = self.tokenizer.encode(&self.tokenizer.disarm(text)).ok()?;
        let known = ids.iter().all(|id| (*id as usize) < self.trie.vocab_size());
        (known && self.trie.decode_raw(&ids) == text.as_bytes()).then_some(ids)
    }
}

impl TokenizerEnv for Words {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            self.spell(text).unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes()))
        })
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}

/// The library never lets the model take a token back and is not told of a prompt.
pub(super) fn capabilities() -> InferenceCapabilities {
    InferenceCapabilities { ff_tokens: false, ..InferenceCapabilities::default() }
}

#[cfg(test)]
mod tests {
    use std::thread::scope;
    use std::time::{Duration, Instant};

    use super::super::gate::INSIDE_MAX;
    use super::*;

    /// Waits for the others at the gate.
    fn until_inside(vocabulary: &Vocabulary, count: usize) {
        let deadline = Instant::now() + Duration::from_mins(1);
        while vocabulary.0.gate.inside() != count {
            assert!(Instant::now() < deadline, "{} inside, not {count}", vocabulary.0.gate.inside());
            std::thread::yield_now();
        }
    }

    #[test]
    fn shapes_are_compiled_one_at_a_time_and_equal_ones_once() {
        let vocabulary = super::super::tests::vocabulary();
        let compile = |expression: &str| vocabulary.compile(&Shape::Regex(expression), &Limits::default());
        compile("known").unwrap();
        let turn = vocabulary.0.gate.enter().unwrap();
        scope(|scope| {
            let others: Vec<_> =
                (1..INSIDE_MAX).map(|number| scope.spawn(move || compile(&"ab"[number % 2..]))).collect();
            until_inside(&vocabulary, INSIDE_MAX);
            assert_eq!(vocabulary.cache().len(), 1, "nobody compiles while somebody does");
            compile("known").unwrap();
            let crowded = GrammarError::Crowded { waiting: INSIDE_MAX, limit: INSIDE_MAX };
            assert_eq!(compile("new").map(drop), Err(crowded));
            drop(turn);
            let made: Vec<Constraint> = others.into_iter().map(|other| other.join().unwrap().unwrap()).collect();
            assert_eq!(vocabulary.cache().len(), 3);
            let shared = |constraint: &Constraint| made.iter().filter(|other| other.shares_with(constraint)).count();
            assert_eq!(
                (shared(&made[0]), shared(&made[1])),
                (INSIDE_MAX / 2, INSIDE_MAX / 2 - 1),
                "one compilation each"
            );
        });
        until_inside(&vocabulary, 0);
        assert!(compile("new").is_ok(), "there is room again");
    }

    #[test]
    fn what_was_refused_is_refused_again_without_another_look() {
        let vocabulary = super::super::tests::vocabulary();
        let refuse = || vocabulary.compile(&Shape::Regex("("), &Limits::default()).map(drop).unwrap_err();
        let first = refuse();
        let _turn = vocabulary.0.gate.enter().unwrap();
        assert_eq!(refuse(), first);
    }
}
