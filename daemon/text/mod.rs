//! Text to tokens and back. No I/O after loading, no JSON but tool schemas, no tensors.
//!
//! [`template`] renders a conversation as the model was trained to read it; [`tokenizer`] turns that into ids and ids into
//! whole characters; [`stop`] says when text ends; [`dialect`] finds calls in what the model writes; [`signature`] says
//! whether a call fits its tool; [`grammar`] says which tokens may come next where an answer has to have a shape.

pub mod dialect;
pub mod grammar;
pub mod signature;
pub mod stop;
pub mod template;
pub mod tokenizer;

/// A tokenizer of single bytes with the control tokens of ChatML, as the tiny test model has it.
#[cfg(test)]
pub fn test_tokenizer() -> tokenizer::Tokenizer {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/tokenizer.json");
    tokenizer::Tokenizer::load(&path).expect("models/tiny is part of the repository")
}
