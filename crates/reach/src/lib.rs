//! Whether pods reach one another: what is asked inside pods, what is answered, and the picture.
//!
//! Owns the two ends of a test, which run inside pods as a program of their own ([`Server`],
//! [`ask()`]), the words between them, and how a matrix of who reaches whom is drawn. Knows nothing
//! of nodes, daemons and tunnels: a pod sees none of them. Every question blocks its caller for at
//! most the time it is given, and whoever reaches a [`Server`] can hold a bounded part of it.

mod answer;
mod ask;
mod check;
mod clock;
mod matrix;
mod paint;

pub use answer::{DEFAULT_PORT, Server};
pub use ask::{Patience, ask, ask_all};
pub use check::{Check, Found, Outcome};
pub use matrix::{Cell, Label, draw, milliseconds};
pub use paint::{Colour, Tone};
