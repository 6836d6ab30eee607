//! The program `culvert`; the library does everything.

use std::process::ExitCode;

fn main() -> ExitCode {
    culvert::main(std::env::args_os())
}
