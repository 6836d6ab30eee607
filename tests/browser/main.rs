//! The page of `culvert ui`, in a real browser: what it shows, how it follows, and what strangers
//! get.
//!
//! Needs root, network namespaces, a built plugin and Chromium: `make test-root SUITES=browser`
//! provides them. CULVERT_SCREENSHOT=FILE keeps a picture of the page, which is that of README.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says why and ends")]

mod chromium;
mod page;
mod strangers;
mod ui;
