//! The `culvert-cni` program: hands the process to the library and exits with its code.

use std::process::ExitCode;
use std::{env, io};

fn main() -> ExitCode {
    culvert_cni::run(
        &|name| env::var_os(name),
        &mut io::stdin().lock(),
        &mut io::stdout().lock(),
        &mut io::stderr().lock(),
    )
}
