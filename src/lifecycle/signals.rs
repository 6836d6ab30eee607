//! Signals as events.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM or SIGINT: finish what has begun and end.
    Stop,
    /// SIGHUP: read the table again.
    Reload,
}

/// The signals that the daemon answers to.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Those that ask for the end.
    pub stop: StopSignals,
    /// The one that asks for another look at the table.
    pub reload: ReloadSignal,
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub(crate) struct StopSignals {
    terminate: Stream,
    interrupt: Stream,
}

/// SIGHUP.
#[derive(Debug)]
pub(crate) struct ReloadSignal(Stream);

impl StopSignals {
    /// Waits for the next.
    ///
    /// # Cancel safety
    ///
    /// A signal that arrives while nobody waits is kept, once.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl ReloadSignal {
    /// Waits for the next.
    ///
    /// # Cancel safety
    ///
    /// As [`StopSignals::next`].
    pub(crate) async fn next(&mut self) {
        self.0.recv().await;
    }
}

impl Signals {
    /// Takes over the signals from the default, which is to die.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            stop: StopSignals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
            reload: ReloadSignal(signal(SignalKind::hangup())?),
        })
    }

    /// Waits for the next.
    ///
    /// # Cancel safety
    ///
    /// A signal that arrives while nobody waits is kept, once.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            () = self.stop.next() => Signal::Stop,
            () = self.reload.next() => Signal::Reload,
        }
    }
}
