//! Network policies: what they say, what they allow, and the plan of rules that says so to a
//! kernel.
//!
//! Owns the objects (pods, namespaces, policies), their semantics and the compilation to a
//! [`Plan`]. Every function is a pure one over its arguments. Never talks to a kernel or a server,
//! and never knows where an object was written.
//!
//! A [`World`] is everything that a node knows; [`read`] makes its objects of text. [`Compiler`]
//! makes the plan of one node out of it, and [`Judge`] says of one packet what becomes of it and
//! why. The two share nothing but the objects: tests hold one against the other, and both against
//! an evaluator that reads the documents themselves.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod compile;
pub mod judge;
pub mod matrix;
pub mod notes;
pub mod object;
mod openings;
pub mod plan;
pub mod read;
mod world;
pub mod write;

pub use compile::{Compiler, Site};
pub use judge::Judge;
pub use openings::Openings;
pub use plan::Plan;
pub use world::{Applying, Member, NamespacedName, NodeView, Shared, World};
