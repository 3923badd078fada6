//! What a model folder holds: files, hints, chat template, manifest. Keeps prepared copies of it. Reads and writes files; runs nothing.

pub mod cache;
pub mod folder;
pub mod graph;
pub mod inspect;
pub mod manifest;
pub mod pagecache;
pub mod prepare;
pub mod print;
pub mod variant;
pub mod weights;
