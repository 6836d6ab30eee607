//! The `culvert-cni` program: hands the process to the library and exits with its code. Under the
//! name `loopback` it is that plugin.

use std::path::Path;
use std::process::ExitCode;
use std::{env, io};

use culvert_cni::Plugin;

fn main() -> ExitCode {
    let program = env::args_os().next().unwrap_or_default();
    culvert_cni::run(
        Plugin::of_program(Path::new(&program)),
        &|name| env::var_os(name),
        &mut io::stdin().lock(),
        &mut io::stdout().lock(),
        &mut io::stderr().lock(),
    )
}
