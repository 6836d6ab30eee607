use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use culvert_dataplane::engine::Traffic;

use super::*;
use crate::observe::{
    AddressUse, Handshakes, Observed, PeerStatus, PeerTotals, ProcessStatus, SCHEMA, Scrape,
    SealedStatus, SessionStatus, Spoken, TableStatus, Tally, Times,
};

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

/// A peer to which so many bytes were sent, one packet each.
fn peer(name: &str, bytes: u64) -> PeerStatus {
    PeerStatus {
        name: name.to_owned(),
        address: "192.168.1.12".parse().unwrap(),
        subnets: Vec::new(),
        codec: Spoken::Plain(overlay_proto::CodecKind::VxlanGpe),
        port: 4790,
        sealed: None,
        session: None,
        session_error: None,
        plain: true,
        mtu: 1464,
        egress: Traffic { packets: bytes, bytes },
        ingress: Default::default(),
        last_heard_seconds: None,
        path: Default::default(),
    }
}

/// A daemon of which this is known, and how often it was looked at.
#[derive(Default)]
struct Daemon {
    status: Status,
    looks: Arc<AtomicUsize>,
}

impl Observed for Daemon {
    fn status(&self) -> Status {
        unreachable!("all peers are wanted by nobody here")
    }

    fn node(&self) -> Status {
        self.looks.fetch_add(1, Ordering::Relaxed);
        Status { peers: Vec::new(), ..self.status.clone() }
    }

    fn scrape(&self, choose: &mut dyn FnMut(&[Tally<'_>]) -> Vec<usize>) -> Scrape {
        let peers = &self.status.peers;
        let mut totals = PeerTotals::default();
        for peer in peers {
            totals.add_sealed(peer.sealed.as_deref(), peer.plain);
            if let Some(session) = &peer.session {
                totals.note_session(session.age_seconds);
            }
        }
        let tallies = peers.iter().map(|peer| Tally {
            name: &peer.name,
            egress: peer.egress,
            ingress: peer.ingress,
        });
        let places = choose(&tallies.collect::<Vec<_>>());
        let chosen = places.into_iter().map(|place| peers[place].clone()).collect();
        Scrape { node: self.node(), totals, chosen }
    }
}

fn exposition(status: &Status) -> String {
    let daemon = Daemon { status: status.clone(), ..Daemon::default() };
    metrics::exposition(&daemon, &mut Activity::new(PeerSeries::Active)).unwrap()
}

/// Serves, and counts how often the status was gathered.
async fn serve() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let source = Arc::new(Daemon { status: status(), looks: Arc::clone(&asked) });
    tokio::spawn(serve_http(listener, source, PeerSeries::Active));
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
    let open_metrics = exposition(&status());
    assert!(open_metrics.ends_with("# EOF\n"), "{open_metrics}");
    let text = older_format(&open_metrics);
    assert!(
        text.contains("# TYPE culvert_repairs_total counter\nculvert_repairs_total 0\n"),
        "{text}"
    );
    assert!(text.contains("# HELP culvert_repairs_total Parts of"), "{text}");
    assert!(text.contains("# TYPE culvert_ready gauge\nculvert_ready 1"), "{text}");
    assert!(!text.contains("EOF"), "{text}");
}

#[test]
fn how_long_handshakes_took_is_a_histogram_by_role() {
    let times = Times { buckets: vec![(0.001, 3), (0.003, 1)], longer: 2, sum: 1.5 };
    let seconds = [("initiator".to_owned(), times)].into();
    let handshakes = Handshakes { seconds, ..Handshakes::default() };
    let public_keys = vec!["key".to_owned()];
    let sealed = SealedStatus { public_keys, handshakes, ..SealedStatus::default() };
    let text = exposition(&Status { sealed, ..status() });
    for line in [
        "# TYPE culvert_handshake_seconds histogram",
        "culvert_handshake_seconds_sum{role=\"initiator\"} 1.5",
        "culvert_handshake_seconds_count{role=\"initiator\"} 6",
        "culvert_handshake_seconds_bucket{le=\"0.001\",role=\"initiator\"} 3",
        "culvert_handshake_seconds_bucket{le=\"0.003\",role=\"initiator\"} 4",
        "culvert_handshake_seconds_bucket{le=\"+Inf\",role=\"initiator\"} 6",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}

#[test]
fn failed_handshakes_are_counted_by_role_and_reason() {
    let failed = [("initiator no_answer", 3), ("responder wrong_keys", 1)];
    let failed = failed.map(|(words, count)| (words.to_owned(), count)).into();
    let handshakes = Handshakes { failed, ..Handshakes::default() };
    let public_keys = vec!["key".to_owned()];
    let sealed = SealedStatus { public_keys, handshakes, ..SealedStatus::default() };
    let text = exposition(&Status { sealed, ..status() });
    let name = "culvert_handshake_failures_total";
    for line in [
        format!("{name}{{role=\"initiator\",reason=\"no_answer\"}} 3"),
        format!("{name}{{role=\"responder\",reason=\"wrong_keys\"}} 1"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}

#[test]
fn sessions_are_counted_by_suite_and_the_oldest_is_told() {
    let with_session = |name, suite: &str, age_seconds| PeerStatus {
        sealed: Some(suite.to_owned()),
        session: Some(SessionStatus {
            suite: suite.to_owned(),
            post_quantum: true,
            role: "initiator".to_owned(),
            age_seconds,
            renewal_in_seconds: 7.0,
            with_former_key: false,
        }),
        ..peer(name, 0)
    };
    let peers = vec![
        with_session("node2", "aes-256-gcm", 12.3),
        with_session("node3", "aes-256-gcm", 98.7),
        with_session("node4", "chacha20-poly1305", 1.0),
        peer("node5", 0),
    ];
    let public_keys = vec!["key".to_owned()];
    let sealed = SealedStatus { public_keys, ..SealedStatus::default() };
    let text = exposition(&Status { peers, sealed: sealed.clone(), ..status() });
    for line in [
        "culvert_sealed_sessions{suite=\"aes-256-gcm\"} 2",
        "culvert_sealed_sessions{suite=\"chacha20-poly1305\"} 1",
        "culvert_sealed_oldest_session_seconds 99",
        "culvert_sealed_key_log 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    let sealed = SealedStatus { key_log: Some("/run/esp_sa".to_owned()), ..sealed };
    let text = exposition(&Status { sealed, ..status() });
    assert!(text.contains("culvert_sealed_key_log 1\n"), "{text}");
    assert!(!text.contains("oldest_session"), "{text}");
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
    // As long as the names that clouds give to machines.
    let name = |index| format!("ip-10-0-{index}.eu-west-1.compute.internal");
    for count in [0, 200, 600, 10_000] {
        let peers = (0..10_000).map(|index| PeerStatus {
            egress: Traffic { packets: u64::from(index < count), bytes: u64::MAX >> 20 },
            last_heard_seconds: Some(1.0),
            ..peer(&name(index), 0)
        });
        let status = Status { peers: peers.collect(), ..status() };
        let text = exposition(&status);
        assert!(text.len() <= 150_000, "{} bytes with {count} active peers", text.len());
        assert!(count == 10_000 || !text.contains("ip-10-0-9999."), "{text}");
        let shown = text.matches("culvert_peer_mtu_bytes{").count();
        let omitted = count as usize - shown;
        assert!(text.contains(&format!("culvert_peers_omitted {omitted}\n")), "{omitted}");
        assert!(shown == count as usize || shown > 200, "{shown} of {count}");
    }
}

#[test]
fn what_the_node_takes_and_has_is_told() {
    let status = Status {
        receive_drops: Some(533),
        receive_damaged: Some(4),
        tun_drops: Some(7),
        addresses: vec![AddressUse {
            subnet: "10.244.1.0/24".parse().unwrap(),
            used: 3,
            free: 250.0,
        }],
        process: ProcessStatus { cpu_seconds: 1.5, threads: 9, ..ProcessStatus::default() },
        peers: vec![peer("node2", 10)],
        ..status()
    };
    let text = exposition(&status);
    for line in [
        "culvert_kernel_dropped_packets_total{place=\"socket\"} 533",
        "culvert_kernel_dropped_packets_total{place=\"tun\"} 7",
        "culvert_kernel_damaged_datagrams_total 4",
        "culvert_addresses{subnet=\"10.244.1.0/24\",state=\"used\"} 3",
        "culvert_addresses{subnet=\"10.244.1.0/24\",state=\"free\"} 250",
        "culvert_peer_mtu_bytes{peer=\"node2\"} 1464",
        "process_cpu_seconds_total 1.5",
        "process_threads 9",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
    }
    // Of a peer that was never heard there is nothing to tell, and of a limit that is not there.
    assert!(!text.contains("last_heard_timestamp_seconds{") && !text.contains("max_fds"), "{text}");
}

#[test]
fn answers_of_peers_are_a_histogram_without_a_series_for_each() {
    let probes = crate::observe::ProbeStatus {
        interval_seconds: 10,
        rtt_bounds: vec![0.001, 0.01],
        rtt_counts: vec![3, 2, 1],
        rtt_sum: 0.5,
        answered: 7,
        refused: 1,
    };
    let text = older_format(&exposition(&Status { probes, ..status() }));
    for line in [
        "# TYPE culvert_probe_rtt_seconds histogram",
        "culvert_probe_rtt_seconds_bucket{le=\"0.001\"} 3",
        "culvert_probe_rtt_seconds_bucket{le=\"0.01\"} 5",
        "culvert_probe_rtt_seconds_bucket{le=\"+Inf\"} 6",
        "culvert_probe_rtt_seconds_count 6",
        "culvert_probe_rtt_seconds_sum 0.5",
        "culvert_peers{state=\"lost\"} 0",
        "culvert_paths_lost 0",
        "culvert_probe_questions_total{outcome=\"refused\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
}
