//! What a model folder holds: files, hints, chat template, manifest. Reads files; runs nothing.

pub mod folder;
pub mod graph;
pub mod manifest;
