//! Ctrl-C for commands that read or write for long: they end in good order.

use std::io;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

/// Exit code of a command that was interrupted: 128 and the number of SIGINT, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Calls `react` at the first SIGINT or SIGTERM instead of dying; the second ends the process.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn on_interrupt(react: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut next = || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
        };
        next();
        react();
        next();
        std::process::exit(i32::from(INTERRUPTED));
    })?;
    Ok(())
}
