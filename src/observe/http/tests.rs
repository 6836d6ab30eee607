use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::observe::{SCHEMA, TableStatus};

const SOON: Duration = Duration::from_secs(1);

fn status() -> Status {
    Status {
        schema: SCHEMA,
        version: "0.0.0".to_owned(),
        node: "node1".to_owned(),
        ready: true,
        mtu: 1464,
        vni: 1,
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

/// Serves, and counts how often the status was gathered.
async fn serve() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let source: StatusSource = Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        status()
    });
    tokio::spawn(serve_http(listener, source));
    (address, asked)
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn probes_are_answered_while_a_stranger_holds_connections() {
    let (address, _) = serve().await;
    let mut held = Vec::new();
    for _ in 0..5 {
        for _ in 0..200 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ").await.unwrap();
            held.push(stream);
        }
        for path in ["/healthz", "/readyz"] {
            let answer = timeout(SOON, get(address, path)).await.expect("an answer in time");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
    let mut alive = 0;
    for stream in &held {
        let open = stream.try_read(&mut [0; 1]);
        alive += usize::from(open.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    }
    assert!(alive <= 64, "{alive} connections are held");
}

#[tokio::test]
async fn scrapes_that_come_together_cost_one() {
    let (address, asked) = serve().await;
    for _ in 0..50 {
        let answer = get(address, "/metrics").await;
        assert!(answer.contains("culvert_ready 1"), "{answer}");
        let answer = get(address, "/readyz").await;
        assert!(answer.ends_with("ready\n"), "{answer}");
    }
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked < 50, "the status was gathered {asked} times for 100 questions");
}

#[test]
fn text_before_openmetrics_names_counters_as_their_samples() {
    let open_metrics = exposition(status()).unwrap();
    assert!(open_metrics.ends_with("# EOF\n"), "{open_metrics}");
    let text = older_format(&open_metrics);
    assert!(
        text.contains("# TYPE culvert_repairs_total counter\nculvert_repairs_total 0\n"),
        "{text}"
    );
    assert!(text.contains("# HELP culvert_repairs_total Parts of"), "{text}");
    assert!(text.contains("# TYPE culvert_ready gauge\nculvert_ready 1\n"), "{text}");
    assert!(!text.contains("EOF"), "{text}");
}

#[tokio::test]
async fn who_asks_for_openmetrics_gets_it() {
    let (address, _) = serve().await;
    let plain = get(address, "/metrics").await;
    assert!(plain.contains("text/plain; version=0.0.4"), "{plain}");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\
                   Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.contains("application/openmetrics-text") && answer.contains("# EOF"),
        "{answer}"
    );
}

#[test]
fn large_cluster_makes_a_small_scrape() {
    let peer = |index: u32| PeerStatus {
        name: format!("node{index}"),
        address: "192.168.1.12".parse().unwrap(),
        subnets: Vec::new(),
        codec: overlay_proto::CodecKind::VxlanGpe,
        port: 4790,
        sealed: None,
        plain: true,
        mtu: 1464,
        egress: culvert_dataplane::engine::Traffic {
            packets: u64::from(index < 600),
            bytes: u64::MAX,
        },
        ingress: Default::default(),
        last_heard_seconds: None,
    };
    let status = Status { peers: (0..10_000).map(peer).collect(), ..status() };
    let text = exposition(status).unwrap();
    assert!(text.contains("culvert_peers_omitted 100"), "{text}");
    assert!(text.len() < 250_000, "{} bytes", text.len());
    assert!(!text.contains("node9999"), "a peer without traffic has no series");
}
