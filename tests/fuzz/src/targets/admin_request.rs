//! Requests on the admin socket, over a real one: each gets one line of JSON, or none if it was no
//! text, and the socket goes on answering.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, mpsc};

use culvert::explain::{Node, explain};
use culvert::observe::{
    AdminSocket, Observed, Scrape, Services, Setup, Status, TableStatus, Tally, UnderlayStatus,
};

use crate::cluster;

/// Longer than the longest request that is read.
const MAX_LEN: usize = 8192;

static SOCKET: LazyLock<PathBuf> = LazyLock::new(|| {
    let (started, waiting) = mpsc::channel();
    std::thread::spawn(move || {
        let directory = tempfile::tempdir().expect("a directory for the socket");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let socket = AdminSocket::bind(directory.path()).expect("a socket of our own");
            started.send(directory.path().join("culvert.sock")).expect("the test waits");
            socket.serve(services()).await;
        });
    });
    waiting.recv().expect("the socket is served")
});

pub(crate) fn run(input: &[u8]) {
    let request = &input[..input.len().min(MAX_LEN)];
    let answer = ask(request);
    if !answer.is_empty() {
        assert_eq!(answer.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice::<serde_json::Value>(&answer).expect("JSON");
    }
}

fn services() -> Services {
    let table = cluster::table();
    let node = Node {
        bridge: "v-net-0".to_owned(),
        tun: "culvert0".to_owned(),
        masquerade: true,
        source_ports: Vec::new(),
        refused: Vec::new(),
    };
    Services {
        status: Arc::new(Daemon),
        setup: Arc::new(|| Ok(Setup::default())),
        explain: Arc::new(move |question| Ok(explain(&table, &node, None, question)?)),
        find: Arc::new(|name| anyhow::bail!("no pod of this node is called {name}")),
        capture: Arc::new(|_, _| anyhow::bail!("there are no workers to look at")),
        flows: Arc::new(|_| anyhow::bail!("there are no workers to look at")),
        pods: Arc::new(|| Ok(Vec::new())),
        ping: Arc::new(|_| Box::pin(async { anyhow::bail!("there are no peers to ask") })),
        tables: Arc::new(|| Box::pin(async { anyhow::bail!("there are no peers to ask") })),
        trace: Arc::new(|_| Box::pin(async { anyhow::bail!("there are no peers to ask") })),
    }
}

fn ask(request: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(&*SOCKET).expect("the socket takes connections");
    // The answer may come, and the end with it, before all of a long request is written.
    let _ = stream.write_all(request);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    // Reset if bytes of the request were left unread.
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// A daemon without peers.
struct Daemon;

impl Observed for Daemon {
    fn status(&self) -> Status {
        status()
    }

    fn node(&self) -> Status {
        status()
    }

    fn scrape(&self, _: &mut dyn FnMut(&[Tally<'_>]) -> Vec<usize>) -> Scrape {
        unreachable!("the socket answers no scrapes")
    }
}

fn status() -> Status {
    Status {
        node: "node1".to_owned(),
        ready: true,
        uptime_seconds: 1.0,
        mtu: 1464,
        vni: 1,
        underlay: UnderlayStatus {
            address: Some(IpAddr::from([192, 168, 1, 11])),
            port: 4790,
            ..UnderlayStatus::default()
        },
        table: TableStatus {
            source: "file".to_owned(),
            current: true,
            generation: 1,
            nodes: 1,
            ..TableStatus::default()
        },
        workers: 1,
        ..Status::default()
    }
}
