//! moed: the language-model daemon for devices.
//!
//! The rooms, in the order a request meets them:
//! [`transport`] reads bytes and makes a [`job::Job`]; [`journal`] remembers what was accepted over MQTT;
//! [`queue`] renders, counts and lets in; [`engine`] owns the model on one thread; the answer comes back as [`job::Event`]s.
//! [`text`] is templates, tokens and stop texts, [`model`] is what a model folder holds.
//! [`home`] is the devices that moed knows, and its own tools.
//! Around them: [`board`] (sensors), [`energy`] (whose it was), [`governor`] (what heat and want lead to), [`watch`] (the thread of all three), [`config`], [`cli`], [`app`] (builds every room), [`control`] (orders to the running daemon), [`loading`] (a model that may answer), [`library`] (a runtime that may be loaded), [`drain`], [`supervisor`] (systemd), [`telemetry`], [`vitals`], [`pulse`] (heartbeats).
//! `daemon/ARCHITECTURE.md` walks one request from socket to last token.

pub mod app;
pub mod board;
pub mod cli;
pub mod config;
pub mod control;
pub mod drain;
pub mod energy;
pub mod engine;
pub mod fault;
pub mod governor;
pub mod home;
pub mod job;
pub mod journal;
pub mod library;
pub mod loading;
pub mod model;
pub mod pulse;
pub mod queue;
pub mod supervisor;
pub mod telemetry;
pub mod text;
pub mod transport;
pub mod vitals;
pub mod watch;
