//! Starting the ends inside pods, and gathering what they find.
//!
//! One program answers in each pod, and one at a time asks. At most [`AT_ONCE`] ask at the same
//! time. Every wait has an end: what a pod's program does not say in time counts as not said.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use culvert_reach::{DEFAULT_PORT, Found};

use super::plan::{self, Pod};
use super::report::{Pair, Report, To};
use super::{Answering, Manner, Place, words};

/// Pods that ask at the same time: each is a process here too.
const AT_ONCE: usize = 8;

/// How long a program may take until it says its first word: through kubectl, seconds.
const START: Duration = Duration::from_secs(30);

/// Bytes of what a program says that are read.
const MOST_SAID: u64 = 4 << 20;

/// Tries everything, and says on a terminal how far it is.
pub(super) fn run(place: &Place, manner: &Manner) -> anyhow::Result<Report> {
    let servers = start_servers(place)?;
    let ports: Vec<u16> = match place.answering {
        Answering::There => vec![DEFAULT_PORT; place.pods.len()],
        Answering::Started => servers.iter().map(|server| server.port).collect(),
    };
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let pairs = Mutex::new(Vec::new());
    let count = place.pods.len();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(count) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(pod) = place.pods.get(number) else { return };
                    let asked = asked_by(place, number, &ports);
                    let found = ask(pod, &asked, manner);
                    let found = pairs_of(number, &asked, found);
                    pairs.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, count);
                }
            });
        }
    });
    let mut pairs = pairs.into_inner().unwrap_or_else(PoisonError::into_inner);
    pairs.sort_by_key(|pair: &Pair| (pair.from, pair.to, !pair.address.is_ipv4()));
    Ok(Report::new(place, pairs))
}

/// A line that the next one overwrites, on a terminal.
fn progress(done: usize, count: usize) {
    let mut out = io::stderr().lock();
    if out.is_terminal() {
        let end = if done == count { "\x1b[2K\r" } else { "" };
        let _ = write!(out, "\r{done} of {count} pods have asked{end}");
        let _ = out.flush();
    }
}

/// Whom a pod asks, and where.
fn asked_by(place: &Place, number: usize, ports: &[u16]) -> Vec<(To, SocketAddr)> {
    let Some(from) = place.pods.get(number) else { return Vec::new() };
    let mut asked = Vec::new();
    for to in plan::asked_by(number, place.pods.len()) {
        let (Some(pod), Some(port)) = (place.pods.get(to), ports.get(to)) else { continue };
        asked.extend(plan::targets(from, pod, *port).into_iter().map(|it| (To::Pod(to), it)));
    }
    let reachable =
        |address: &SocketAddr| from.addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4());
    let services = place.services.iter().enumerate();
    let services = services.filter(|(_, service)| reachable(&service.address));
    asked.extend(services.map(|(to, service)| (To::Service(to), service.address)));
    asked
}

/// What a pod found of each that it was to ask, or why nothing.
fn ask(
    pod: &Pod,
    asked: &[(To, SocketAddr)],
    manner: &Manner,
) -> anyhow::Result<BTreeMap<SocketAddr, Found>> {
    if asked.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut arguments = words(&["test", "ask", "--patience", &manner.patience.to_string()]);
    arguments.extend(asked.iter().map(|(_, address)| OsString::from(address.to_string())));
    let mut child = start(pod, &arguments, Stdio::null())?;
    let mut said = String::new();
    let read =
        child.stdout.take().context("read what it says")?.take(MOST_SAID).read_to_string(&mut said);
    let complaint = end(&mut child)?;
    read.context("read what it says")?;
    let mut found = BTreeMap::new();
    for line in said.lines() {
        let one: Found = serde_json::from_str(line).with_context(|| format!("read `{line}`"))?;
        found.insert(one.to, one);
    }
    if found.is_empty() {
        bail!("the program in {} found nothing: {complaint}", pod.title());
    }
    Ok(found)
}

fn pairs_of(
    from: usize,
    asked: &[(To, SocketAddr)],
    found: anyhow::Result<BTreeMap<SocketAddr, Found>>,
) -> Vec<Pair> {
    let (found, error) = match found {
        Ok(found) => (found, None),
        Err(error) => (BTreeMap::new(), Some(format!("{error:#}"))),
    };
    let nothing = || error.clone().unwrap_or_else(|| "the program said nothing of it".to_owned());
    let of = |(to, address): &(To, SocketAddr)| Pair {
        from,
        to: *to,
        address: *address,
        found: found.get(address).cloned().ok_or_else(nothing),
    };
    asked.iter().map(of).collect()
}

/// The programs that answer, which end with this.
struct Answerer {
    child: Child,
    port: u16,
}

impl Drop for Answerer {
    fn drop(&mut self) {
        // The end of its standard input is what it waits for, also behind docker and kubectl.
        drop(self.child.stdin.take());
        for _ in 0..100 {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start_servers(place: &Place) -> anyhow::Result<Vec<Answerer>> {
    if place.answering == Answering::There {
        return Ok(Vec::new());
    }
    let arguments = words(&["test", "answer", "--port", "0"]);
    let mut servers = Vec::new();
    for pod in &place.pods {
        let mut child = start(pod, &arguments, Stdio::piped())?;
        let first = first_line(&mut child);
        let mut server = Answerer { child, port: 0 };
        let port = first.and_then(|line| line.trim().parse().context("read its port"));
        server.port = port.or_else(|error| {
            let _ = server.child.kill();
            let complaint = end(&mut server.child)?;
            Err(anyhow!("the program in {} does not answer: {error:#} {complaint}", pod.title()))
        })?;
        servers.push(server);
    }
    Ok(servers)
}

/// The first line that a program says, if it does so in time.
fn first_line(child: &mut Child) -> anyhow::Result<String> {
    let stdout = child.stdout.take().context("read what it says")?;
    let (tell, told) = mpsc::channel();
    // Ends with the program's output, which is closed with it.
    thread::Builder::new().name("first line".to_owned()).spawn(move || {
        let mut line = String::new();
        let mut reader = BufReader::new(stdout).take(MOST_SAID);
        let read = reader.read_line(&mut line).map(|_| line);
        let _ = tell.send(read);
        // What follows is nobody's, and must not stop it.
        let _ = io::copy(&mut reader, &mut io::sink());
    })?;
    let line = told.recv_timeout(START).context("it says nothing")?;
    line.context("read what it says")
}

fn start(pod: &Pod, arguments: &[OsString], stdin: Stdio) -> anyhow::Result<Child> {
    let (program, before) = pod.program.split_first().context("a pod without a program")?;
    Command::new(program)
        .args(before)
        .args(arguments)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {} for {}", program.display(), pod.title()))
}

/// Waits for a program whose output has ended; what it complained about.
fn end(child: &mut Child) -> anyhow::Result<String> {
    let mut complaint = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(MOST_SAID).read_to_string(&mut complaint);
    }
    child.wait().context("wait for a program")?;
    Ok(complaint.trim().to_owned())
}
