//! What stalls beneath the daemon holds up nobody who asks it something, nor its end.

#![expect(unsafe_code, reason = "no safe way leads to ptrace")]

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use culvert_dataplane::platform::clock;
use culvert_lab::{Node, wait_for, wait_until};
use culvert_node::ipam::{DATABASE, DIRECTORY};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{CULVERT, REPAIR_LIMIT, SOON, assert_reaches, lab, run};

/// How long whoever asks may have to wait.
const PROMPT: Duration = Duration::from_secs(1);

/// How long an end may take, which cannot be tried three times: half of how long the daemon waits
/// for an answer of the kernel.
const END: Duration = Duration::from_secs(5);

/// A thread that a debugger holds: as if a system call did not come back.
struct Held(libc::pid_t);

impl Held {
    /// Holds the thread called `name` where it waits for work. Anywhere else it may have a lock of
    /// its process, which no system call would keep from the other threads.
    fn thread(node: &Node, name: &str) -> Self {
        let tasks = format!("/proc/{}/task", node.pid().unwrap());
        let thread = fs::read_dir(&tasks)
            .unwrap()
            .map(|task| task.unwrap().path())
            .find(|task| fs::read_to_string(task.join("comm")).unwrap().trim() == name)
            .unwrap_or_else(|| panic!("no thread of {tasks} is called {name}"));
        let id = thread.file_name().unwrap().to_str().unwrap().parse().unwrap();
        wait_for(SOON, "the thread to wait for work", || {
            let held = Self::at_once(id);
            let call = fs::read_to_string(thread.join("syscall"))?;
            let number: Option<libc::c_long> =
                call.split(' ').next().and_then(|it| it.parse().ok());
            Ok((number == Some(libc::SYS_futex)).then_some(held))
        })
        .unwrap()
    }

    fn at_once(id: libc::pid_t) -> Self {
        assert_eq!(ptrace(libc::PTRACE_SEIZE, id), 0, "{}", io::Error::last_os_error());
        let held = Self(id);
        assert_eq!(ptrace(libc::PTRACE_INTERRUPT, id), 0, "{}", io::Error::last_os_error());
        held.wait();
        held
    }

    /// Waits until the thread has stopped, or has ended.
    fn wait(&self) {
        wait_until(SOON, "the thread to stop", || {
            let mut status = 0;
            let options = libc::__WALL | libc::WNOHANG;
            // SAFETY: looks at a thread that this one traces, and writes to a local alone.
            let changed = unsafe { libc::waitpid(self.0, &raw mut status, options) };
            assert_ne!(changed, -1, "{}", io::Error::last_os_error());
            changed == self.0
        })
        .unwrap();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may have ended.
        let _outcome = ptrace(libc::PTRACE_DETACH, self.0);
    }
}

fn ptrace(request: libc::c_uint, thread: libc::pid_t) -> libc::c_long {
    // SAFETY: these requests take no pointers, and act on another process.
    unsafe { libc::ptrace(request, thread, null_mut::<libc::c_void>(), null_mut::<libc::c_void>()) }
}

/// How long `work` takes: the shortest of three times, because the machine has others to serve.
fn time<T>(mut work: impl FnMut() -> T) -> Duration {
    let once = |work: &mut dyn FnMut() -> T| {
        let before: Instant = clock::now();
        work();
        clock::now() - before
    };
    (0..3).map(|_| once(&mut work)).min().unwrap()
}

/// Demands that the node answers everybody who asks, at once.
#[track_caller]
fn assert_answers(node: &Node) {
    for path in ["/readyz", "/healthz", "/metrics"] {
        let took = time(|| node.http(path).unwrap());
        assert!(took < PROMPT, "{path} took {took:?}");
    }
    let took = time(|| node.status().unwrap());
    assert!(took < PROMPT, "status took {took:?}");
}

#[track_caller]
fn assert_stops(node: &Node) {
    let before = clock::now();
    node.stop().unwrap();
    let took = clock::now() - before;
    assert!(took < END, "the end took {took:?}");
}

/// Breaks the node, and demands that it is repaired.
#[track_caller]
fn assert_repairs(node: &Node) {
    node.netns().ip("route del 10.244.0.0/16 dev culvert0").unwrap();
    wait_until(REPAIR_LIMIT, "the route to come back", || {
        !node.netns().ip_output(&["route", "show", "10.244.0.0/16"]).unwrap().is_empty()
    })
    .unwrap();
}

#[test]
fn kernel_that_does_not_answer_holds_up_nobody() {
    let lab = lab("nt-stall-kernel").up().unwrap();
    let node = lab.node(1);
    let held = Held::thread(node, "kernel");
    node.netns().ip("route del 10.244.0.0/16 dev culvert0").unwrap();
    // Longer than the daemon waits for an answer.
    let begin = clock::now();
    while clock::now() - begin < Duration::from_secs(12) {
        assert_answers(node);
        assert_eq!(node.http("/readyz").unwrap().0, 200, "a look that told nothing is no fault");
        std::thread::sleep(Duration::from_millis(500));
    }
    drop(held);
    wait_until(SOON, "the route to come back", || {
        !node.netns().ip_output(&["route", "show", "10.244.0.0/16"]).unwrap().is_empty()
    })
    .unwrap();
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    let held = Held::thread(node, "kernel");
    node.netns().ip("route del 10.244.0.0/16 dev culvert0").unwrap();
    let daemon = Pid::from_raw(node.pid().unwrap().cast_signed()).unwrap();
    let before = clock::now();
    kill_process(daemon, Signal::TERM).unwrap();
    // The kernel keeps a process until whoever traces its threads has seen them end.
    held.wait();
    let took = clock::now() - before;
    assert!(took < END, "the end took {took:?}");
    node.stop().unwrap();
}

#[test]
fn store_that_somebody_locks_holds_up_nobody() {
    let lab = lab("nt-stall-store").up().unwrap();
    let node = lab.node(1);
    node.stop().unwrap();
    let store =
        rusqlite::Connection::open(node.state_dir().join(DIRECTORY).join(DATABASE)).unwrap();
    store.execute_batch("BEGIN EXCLUSIVE").unwrap();
    // Looks through the store at once, and waits for it.
    node.start().unwrap();
    assert_answers(node);
    assert_repairs(node);
    assert_stops(node);
}

#[test]
fn table_file_that_nobody_writes_holds_up_nobody() {
    let lab = lab("nt-stall-table").up().unwrap();
    let node = lab.node(1);
    let (table, pipe) = (node.table_path(), node.run_dir().join("pipe"));
    run(node.netns(), "mkfifo", &[pipe.to_str().unwrap()]);
    // With somebody who holds the other end open, and says nothing.
    let _writer: OwnedFd =
        fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap().into();
    fs::rename(&pipe, &table).unwrap();
    node.reload().unwrap();
    assert_answers(node);
    assert_repairs(node);
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    assert_stops(node);
}

#[test]
fn log_that_nobody_reads_holds_nothing_up() {
    let lab = lab("nt-mute").up().unwrap();
    let (node, one, two) = (lab.node(1), lab.pod(1, 1), lab.pod(2, 1));
    node.stop().unwrap();
    let (_reader, mut writer) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let mut command = node.netns().command(CULVERT);
    command.args(["run", "--log", "debug", "--config"]).arg(node.config_path());
    let mut daemon = command.stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    wait_until(SOON, "the daemon to be ready", || {
        node.http("/readyz").is_ok_and(|(code, _)| code == 200)
    })
    .unwrap();
    assert_reaches(one.netns(), two.ipv4());
    // It has something to say of each.
    run(node.netns(), "ip", &["link", "set", "v-net-0", "down"]);
    wait_until(REPAIR_LIMIT, "a repair", || {
        node.status().is_ok_and(|status| status["repairs"].as_u64() > Some(0))
    })
    .unwrap();
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    let before = clock::now();
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    assert!(clock::now() - before < SOON, "it waited for whoever does not read");
}
