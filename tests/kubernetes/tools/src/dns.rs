//! A DNS server for the names of a cluster: what the tests of Kubernetes ask for, and no more.
//!
//! The zone is made of what the API server lists every second. Three threads serve it: this one
//! lists, the others answer on UDP and TCP. A question that has no name here is answered with
//! NXDOMAIN; nothing is asked of other servers.

mod message;
mod zone;

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use kube::api::{Api, ListParams};

use self::zone::Zone;

const PORT: u16 = 53;
/// How long the zone may be behind. Tests of Kubernetes ask again for minutes.
const EVERY: Duration = Duration::from_secs(1);

type Shared = Arc<RwLock<Zone>>;

/// Serves until it is killed.
pub(crate) fn run() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(follow())
}

async fn follow() -> anyhow::Result<()> {
    let config = kube::Config::incluster().context("this is no pod of a cluster")?;
    let client = kube::Client::try_from(config).context("speak to the API server")?;
    let services: Api<Service> = Api::all(client.clone());
    let endpoints: Api<Endpoints> = Api::all(client);
    let everything = ListParams::default();
    let mut shared: Option<Shared> = None;
    loop {
        let listed = async {
            let services = services.list(&everything).await?;
            let endpoints = endpoints.list(&everything).await?;
            anyhow::Ok(Zone::new(&services.items, &endpoints.items))
        };
        match (listed.await, &shared) {
            (Ok(zone), Some(shared)) => {
                if let Ok(mut shared) = shared.write() {
                    *shared = zone;
                }
            }
            // The port is open from here on, which is what the readiness probe looks for.
            (Ok(zone), None) => shared = Some(serve(zone)?),
            (Err(error), _) => writeln!(std::io::stderr(), "listing: {error:#}")?,
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Opens the ports, and answers.
fn serve(zone: Zone) -> anyhow::Result<Shared> {
    let shared = Arc::new(RwLock::new(zone));
    let any = (Ipv6Addr::UNSPECIFIED, PORT);
    let datagrams = UdpSocket::bind(any).or_else(|_| UdpSocket::bind(("0.0.0.0", PORT)));
    let datagrams = datagrams.context("listen on UDP")?;
    let connections = TcpListener::bind(any).or_else(|_| TcpListener::bind(("0.0.0.0", PORT)));
    let connections = connections.context("listen on TCP")?;
    let zone = Arc::clone(&shared);
    thread::spawn(move || answer_datagrams(&datagrams, &zone));
    let zone = Arc::clone(&shared);
    thread::spawn(move || {
        for connection in connections.incoming().flatten() {
            let zone = Arc::clone(&zone);
            thread::spawn(move || answer_connection(connection, &zone));
        }
    });
    Ok(shared)
}

fn answer(question: &[u8], zone: &Shared) -> Option<Vec<u8>> {
    message::answer(question, &*zone.read().ok()?)
}

fn answer_datagrams(socket: &UdpSocket, zone: &Shared) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(answer) = buffer.get(..len).and_then(|question| answer(question, zone)) {
            // Whoever does not hear it asks again.
            let _lost = socket.send_to(&answer, from);
        }
    }
}

fn answer_connection(mut connection: TcpStream, zone: &Shared) -> Option<()> {
    connection.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    loop {
        let mut len = [0; 2];
        connection.read_exact(&mut len).ok()?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(len))];
        connection.read_exact(&mut question).ok()?;
        let answer = answer(&question, zone)?;
        let mut reply = u16::try_from(answer.len()).ok()?.to_be_bytes().to_vec();
        reply.extend(answer);
        connection.write_all(&reply).ok()?;
    }
}
