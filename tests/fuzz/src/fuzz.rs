//! The program that discovers: libFuzzer around the target that `CULVERT_FUZZ_TARGET` names.
//!
//! Takes libFuzzer's own arguments; `make fuzz` gives them.

#![no_main]
#![expect(clippy::print_stderr, reason = "a program for people")]

use std::sync::LazyLock;

use culvert_fuzz::{TARGETS, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("CULVERT_FUZZ_TARGET").unwrap_or_default();
    culvert_fuzz::target(&name).unwrap_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("CULVERT_FUZZ_TARGET is {name:?}; it must be one of {}", names.join(" "));
        std::process::exit(2)
    })
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| (TARGET.run)(input));
