//! The program `bench`; the library does everything.

use std::process::ExitCode;

fn main() -> ExitCode {
    culvert_bench::cli::main()
}
