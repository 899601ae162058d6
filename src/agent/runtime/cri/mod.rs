//! Ordinary containers, run by a runtime that speaks CRI v1.
//!
//! Owns: [`config`], the messages that pods become. Starts no task yet.

pub(crate) mod config;
