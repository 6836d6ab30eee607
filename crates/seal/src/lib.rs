//! Sealed mode: who a node is, and what two nodes agree on.
//!
//! Owns the keys of a node. Holds no socket and reads no clock: time and packets are arguments.

#![deny(unsafe_code)]

pub mod keys;
