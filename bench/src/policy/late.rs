//! Pods that start before the source tells of them, and that a policy keeps from everybody: nothing
//! that they send may arrive.
//!
//! Each sends to a pod of the other node all the time, from before it is attached. The source tells
//! of it up to five seconds after its ADD has begun; a runtime calls again when that was too late.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use culvert_lab::{Netns, clock, interrupt};
use serde::Serialize;
use serde_json::{Value, json};
use source_servers::api_server::{NETWORK_POLICIES, PODS};

use super::objects::{OWN, own_policy};
use super::stage::Stage;

/// Pods that start at once, and the number of the first.
const AT_ONCE: u16 = 50;
const FIRST: u16 = 4;

/// The longest that the source is late.
const LATEST: Duration = Duration::from_secs(5);

/// Time between two datagrams of a pod.
const PACE: Duration = Duration::from_millis(1);

/// How long a pod goes on sending once it has started.
const AFTER: Duration = Duration::from_millis(100);

/// How often a runtime calls until the pod counts as lost.
const CALLS: usize = 5;

const PORT: u16 = 9100;

/// What became of them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Late {
    pub(super) adds: u64,
    /// Calls that were refused because the source had not told of the pod in time.
    pub(super) refused: u64,
    /// Datagrams that pods could hand to their kernel while they were attached.
    pub(super) sent: u64,
    /// Datagrams that arrived while a policy forbade all of them.
    pub(super) leaked: u64,
    /// Datagrams that arrived once the policy was gone, as a check of the measurement.
    pub(super) arrived_without: u64,
}

/// Starts `count` pods, [`AT_ONCE`] at once.
pub(super) fn measure(stage: &Stage, count: usize) -> Result<Late> {
    let policy = |egress: Value| {
        let mut policy = own_policy("late", ("kind", "late"), &json!([]));
        policy["spec"]["policyTypes"] = json!(["Ingress", "Egress"]);
        policy["spec"]["egress"] = egress;
        policy
    };
    stage.put_policy(policy(json!([])));
    let to = SocketAddr::new(stage.far().address, PORT);
    let receiver = stage.far().netns.run(|| UdpSocket::bind(to))?.context("bind")?;
    receiver.set_read_timeout(Some(Duration::from_millis(20))).context("set a timeout")?;
    let arrived = Mutex::new(BTreeMap::<IpAddr, u64>::new());
    let stop = AtomicBool::new(false);
    let mut late = Late::default();
    let outcome = thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, from)) = receiver.recv_from(&mut buffer) {
                    let mut arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
                    *arrived.entry(from.ip()).or_default() += 1;
                }
            }
        });
        let outcome = run(stage, count, to, &mut late, &arrived, &policy);
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    outcome?;
    stage.server.delete_other(NETWORK_POLICIES, &format!("{OWN}/late"));
    ensure!(late.arrived_without > 0, "nothing arrives without the policy either");
    Ok(late)
}

fn run(
    stage: &Stage,
    count: usize,
    to: SocketAddr,
    late: &mut Late,
    arrived: &Mutex<BTreeMap<IpAddr, u64>>,
    policy: &dyn Fn(Value) -> Value,
) -> Result<()> {
    let total = || arrived.lock().unwrap_or_else(PoisonError::into_inner).values().sum::<u64>();
    let node = stage.lab.node(1);
    // Namespaces, and everything that a pod has but its address.
    let mut pods = Vec::new();
    for index in FIRST..FIRST + AT_ONCE {
        stage.put_pod(1, index, &[]);
        pods.push(stage.lab.add_pod(1)?);
    }
    let before = total();
    let (refused, sent) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut round = 0;
    while late.adds < count as u64 {
        interrupt::check()?;
        for pod in &pods {
            node.cni("DEL", pod)?;
            stage.server.delete_other(PODS, &format!("{OWN}/{}", pod.name()));
        }
        let starts = |pod: &culvert_lab::Pod| -> Result<()> {
            // Spread over all of the time, each round in another order.
            let place = (u32::from(pod.index()) * 17 + round * 31) % u32::from(AT_ONCE);
            let delay = LATEST * place / u32::from(AT_ONCE);
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                let sending = scope.spawn(|| send(pod.netns(), to, &stop));
                scope.spawn(|| {
                    thread::sleep(delay);
                    stage.put_pod(1, pod.index(), &[]);
                });
                let added = call(stage, pod, &refused);
                thread::sleep(AFTER);
                stop.store(true, Ordering::Relaxed);
                let count = sending.join().map_err(|_| anyhow!("the sender ended"))??;
                sent.fetch_add(count, Ordering::Relaxed);
                added
            })
        };
        thread::scope(|scope| {
            let threads: Vec<_> = pods.iter().map(|pod| scope.spawn(|| starts(pod))).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(anyhow!("a thread ended")))
            })
        })?;
        late.adds += u64::from(AT_ONCE);
        round += 1;
    }
    late.leaked = total() - before;
    (late.refused, late.sent) = (refused.into_inner(), sent.into_inner());
    // The same datagrams arrive where the policy lets them.
    let closed = total();
    stage.put_policy(policy(json!([{}])));
    let start = clock::now();
    while total() == closed && start.elapsed() < Duration::from_secs(10) {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let sending = scope.spawn(|| send(pods[0].netns(), to, &stop));
            thread::sleep(AFTER);
            stop.store(true, Ordering::Relaxed);
            let _sent = sending.join();
        });
    }
    late.arrived_without = total() - closed;
    for pod in &pods {
        stage.lab.remove_pod(1, pod.index())?;
    }
    Ok(())
}

/// Calls ADD as a runtime does, again when it was refused.
fn call(stage: &Stage, pod: &culvert_lab::Pod, refused: &AtomicU64) -> Result<()> {
    for _call in 0..CALLS {
        match stage.lab.node(1).cni("ADD", pod) {
            Ok(_) => return Ok(()),
            Err(error) if format!("{error:#}").contains("11") => {
                refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => return Err(error.context("attach a pod")),
        }
    }
    bail!("{} was refused {CALLS} times", pod.name())
}

/// Sends all the time; how many the pod's kernel took.
fn send(netns: &Netns, to: SocketAddr, stop: &AtomicBool) -> Result<u64> {
    netns.run(|| {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            // A socket of before the address would go on with none.
            let sent = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"late", to));
            count += u64::from(sent.is_ok());
            thread::sleep(PACE);
        }
        count
    })
}
