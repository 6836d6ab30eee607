//! Standard error, for whoever must not wait for its reader.
//!
//! Owns a buffer of bounded size and the one thread that waits. A reader may be slow, stopped, or a
//! full disk; who logs leaves a line in the buffer and goes on, and what does not fit is lost and
//! counted. When the reader reads again, the log says how many lines it lacks.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that may wait: some thousands of lines.
const CAPACITY: usize = 1 << 20;

/// How long the end of the program waits for a reader: one that reads takes what there is at once.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where lines are left.
#[derive(Clone)]
pub(super) struct Outlet(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// That there is something to write, or that everything is written.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines that did not fit since the reader was last told.
    lost: u64,
    /// Whether the thread has taken lines that it has not written yet.
    is_writing: bool,
}

impl Outlet {
    /// Starts the thread, which writes to `reader` and, when it has lost lines, calls `tell` with
    /// their number.
    pub(super) fn start(
        reader: impl Write + Send + 'static,
        tell: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let outlet = Self(Arc::clone(&shared));
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || carry(&shared, reader, tell))?;
        Ok(outlet)
    }

    /// Waits until everything is written, if the reader reads.
    pub(super) fn finish(&self) {
        let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        // Whether it is done makes no difference: nobody is there any more who could be told.
        let _ = self.0.changed.wait_timeout_while(self.0.lock(), FAREWELL, is_busy);
    }
}

/// Leaves a line.
impl Write for Outlet {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.waiting.len() + line.len() > CAPACITY {
            state.lost += 1;
        } else {
            state.waiting.extend_from_slice(line);
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    /// Nobody panics while he holds it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries lines to the reader, for ever.
fn carry(shared: &Shared, mut reader: impl Write, tell: impl Fn(u64)) {
    let mut lines = Vec::new();
    loop {
        {
            let mut state = shared.lock();
            state.is_writing = false;
            shared.changed.notify_all();
            let is_idle = |state: &mut State| state.waiting.is_empty();
            let state = shared.changed.wait_while(state, is_idle);
            let mut state = state.unwrap_or_else(PoisonError::into_inner);
            state.is_writing = true;
            std::mem::swap(&mut state.waiting, &mut lines);
        }
        // Where nobody reads any more, nobody can be told.
        let _ = reader.write_all(&lines);
        lines.clear();
        let lost = std::mem::take(&mut shared.lock().lost);
        if lost > 0 {
            tell(lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader that takes a line only when it is let.
    struct Slow {
        let_go: mpsc::Receiver<()>,
        read: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.let_go.recv();
            let _ = self.read.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_logs_never_waits_and_what_does_not_fit_is_counted() {
        let (go, let_go) = mpsc::channel();
        let (read, written) = mpsc::channel();
        let (told, heard) = mpsc::channel();
        let slow = Slow { let_go, read };
        let mut outlet = Outlet::start(slow, move |lost| told.send(lost).unwrap()).unwrap();
        let line = [b'x'; 1024];
        // More than twice what the thread and the buffer hold together.
        for _ in 0..4 * CAPACITY / line.len() {
            outlet.write_all(&line).unwrap();
        }
        assert!(outlet.0.lock().waiting.len() <= CAPACITY);
        assert!(heard.try_recv().is_err(), "the reader has read nothing");
        drop(go);
        let lost = heard.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(lost >= 2 * (CAPACITY / line.len()) as u64, "{lost}");
        // It goes on.
        outlet.finish();
        while written.try_recv().is_ok() {}
        outlet.write_all(b"again\n").unwrap();
        assert_eq!(written.recv_timeout(Duration::from_secs(10)).unwrap(), b"again\n");
    }

    #[test]
    fn end_waits_for_a_reader_that_reads_and_not_for_another() {
        let (go, let_go) = mpsc::channel();
        let (read, written) = mpsc::channel();
        let mut outlet = Outlet::start(Slow { let_go, read }, |_| ()).unwrap();
        outlet.write_all(b"last words\n").unwrap();
        outlet.finish();
        assert!(written.try_recv().is_err(), "nobody has read them");
        go.send(()).unwrap();
        outlet.finish();
        assert_eq!(written.try_recv().unwrap(), b"last words\n");
    }
}
