//! Looking at everything, once.
//!
//! What waits, waits at the same time: the second look at sockets, the link's answer about our
//! address, and the peers'. The daemon gets a moment to answer; one that is stopped is done
//! without.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::bail;
use culvert_dataplane::platform::clock;
use culvert_dataplane::platform::overflows::overflows;
use culvert_netlink::{Address, Link, LinkKind};
use culvert_node::node_file::DEFAULT_STATE_DIR;

use super::facts::{Answer, Clock, Expected, Facts, Firewall, Neighbours};
use super::report::Heading;
use super::sockets::{UdpSocket, transmit_drops, udp_sockets};
use super::{ask, ask_pods, inside};
use crate::app;
use crate::config::{Config, Overrides};
use crate::ipam;
use crate::observe::{self, PeerStatus, PeerTable, Setup, Status};
use crate::platform::arp::{self, ArpQuestion, Claim};
use crate::platform::listener::listener;
use crate::platform::sysctl::Sysctls;
use crate::platform::timekeeping;

/// How long the daemon may take for each answer.
const PATIENCE: Duration = Duration::from_millis(300);

/// When peers are asked again of which one said something else than is hoped.
const AGAIN: Duration = Duration::from_millis(500);

/// What is between two looks at counters.
const BETWEEN: Duration = Duration::from_millis(250);

/// How long somebody else on the link may take to say that he has our address.
const LINK_PATIENCE: Duration = Duration::from_millis(250);

/// How much later than now a file may have been written: clocks of file servers differ.
const TOLERANCE: Duration = Duration::from_secs(60);

/// Where the node's things are.
pub(super) struct Place<'a> {
    pub(super) run_dir: &'a Path,
    pub(super) config: &'a Path,
    pub(super) node_name: Option<&'a str>,
}

/// Who is asked besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// Nobody: nothing is sent to pods and peers.
    Nobody,
    /// This node's pods.
    Pods,
    /// Those, and the peers.
    PodsAndPeers,
}

/// Looks at everything, and asks whom `asks` says.
///
/// # Errors
///
/// The daemon is in another network namespace than this command.
pub(super) fn gather(place: &Place<'_>, asks: Asks) -> anyhow::Result<(Heading, Facts)> {
    let asks_peers = asks == Asks::PodsAndPeers;
    let overrides =
        Overrides { node_name: place.node_name.map(str::to_owned), ..Overrides::default() };
    let config = Config::read(place.config, &overrides).map_err(|error| format!("{error:#}"));
    let (daemon, unanswered, expected) = expected(place, &config)?;
    let door = observe::knock(place.run_dir, PATIENCE);
    let listener = door.ok().and_then(|stream| listener(stream.as_fd()));
    let heading = heading(&daemon, &expected, &config);

    let facts = thread::scope(|scope| {
        let tun = expected.as_ref().map_or("culvert0", |expected| &expected.setup.tun);
        let counters = scope.spawn(move || twice(tun));
        let peers = asks_peers.then(|| {
            let asked = expected.as_ref().map_err(String::clone);
            let again = || {
                let answer = observe::examine(place.run_dir, PATIENCE);
                answer.map(|(status, _)| status.peers).map_err(|error| format!("{error:#}"))
            };
            scope.spawn(move || asked.map(|expected| ask::peers(expected, again)))
        });
        let tables = asks_peers.then(|| {
            let own = expected.as_ref().map(|expected| expected.table.clone());
            let own = own.map_err(String::clone);
            scope.spawn(move || own.and_then(|own| tables(place.run_dir, &own)))
        });
        let kernel = expected.as_ref().map_err(String::clone).and_then(|expected| {
            let examined = app::examine(&expected.setup, &expected.peers);
            examined.map_err(|error| format!("{error:#}"))
        });
        let links = kernel.as_ref().map_or(&[][..], |kernel| &kernel.links);
        let pods = match (&kernel, &expected) {
            _ if asks == Asks::Nobody => Err("pods are not asked for this".to_owned()),
            (Ok(_), Ok(expected)) => {
                let (setup, links) = (expected.setup.clone(), links.to_vec());
                Ok(scope.spawn(move || ask_pods::pods(&setup, &links)))
            }
            (Err(why), _) | (_, Err(why)) => Err(why.clone()),
        };
        let pod_holders = match (&kernel, &expected) {
            _ if asks == Asks::Nobody => Err("pods are not asked for this".to_owned()),
            (Ok(_), Ok(expected)) => {
                let (setup, links) = (expected.setup.clone(), links.to_vec());
                Ok(scope.spawn(move || pod_holders(&links, &setup)))
            }
            (Err(why), _) | (_, Err(why)) => Err(why.clone()),
        };
        let holders = match (&kernel, &expected) {
            (Ok(kernel), Ok(expected)) => {
                let is_few = expected.peers.len() <= ask::FEW;
                let peers = if asks_peers && is_few { &expected.peers[..] } else { &[] };
                holders(&kernel.links, &kernel.addresses, expected.setup.address, peers)
            }
            (Err(why), _) | (_, Err(why)) => Err(why.clone()),
        };
        let parameters_at = expected.as_ref().map(|expected| expected.setup.sysctl_dir.as_path());
        let sysctls = parameters_at.map_or_else(|_| Sysctls::default(), Sysctls::at);
        let parameters = parameters(&sysctls, links);
        let tracked = tracked(&sysctls);
        let firewall = firewall();
        let clock = time(&expected, &config);
        let ipam = ipam(place, &expected, &config);
        let (sockets, overflows, tun_drops) =
            counters.join().unwrap_or_else(|_| (Err("looking failed".to_owned()), None, None));
        let peers = peers.map(|asking| {
            asking.join().unwrap_or_else(|_| Err("asking the peers failed".to_owned()))
        });
        let tables = tables.map(|asking| {
            asking.join().unwrap_or_else(|_| Err("asking the peers failed".to_owned()))
        });
        // What was dropped of it meanwhile, and from whom.
        let daemon = daemon.map(|before| {
            let again = asks_peers.then(|| observe::examine(place.run_dir, PATIENCE).ok());
            again.flatten().map_or(before, |(status, _)| status)
        });
        let pod_holders = pod_holders.and_then(|asking| {
            asking.join().unwrap_or_else(|_| Err("asking the pods failed".to_owned()))
        });
        let mut pods = pods.and_then(|asking| {
            asking.join().unwrap_or_else(|_| Err("asking the pods failed".to_owned()))
        });
        if let Ok(pods) = &mut pods {
            inside::find(pods, pod_holders.as_deref().unwrap_or_default(), links);
        }
        let neighbours = match (&kernel, &expected) {
            (Ok(kernel), Ok(expected)) => {
                neighbours(&kernel.links, &kernel.addresses, expected.setup.address)
            }
            (Err(why), _) | (_, Err(why)) => Err(why.clone()),
        };
        Facts {
            kernel,
            firewall,
            sockets,
            overflows,
            tun_drops,
            tracked,
            parameters,
            clock,
            holders,
            pod_holders,
            ipam,
            peers,
            tables,
            pods,
            neighbours,
            daemon,
            unanswered,
            listener,
            expected: expected.clone(),
        }
    });
    Ok((heading, facts))
}

/// What the daemon says, or what the system says in its place, and how the node is to be: by it, or
/// else by its configuration.
fn expected(
    place: &Place<'_>,
    config: &Answer<Config>,
) -> anyhow::Result<(Answer<Status>, Option<io::ErrorKind>, Answer<Expected>)> {
    let mut unanswered = None;
    let (daemon, setup) = match observe::examine(place.run_dir, PATIENCE) {
        Ok((status, setup)) => (Ok(status), setup.map_err(|error| format!("{error:#}"))),
        Err(error) => {
            unanswered = error.downcast_ref::<io::Error>().map(io::Error::kind);
            (Err(format!("{error:#}")), Err(String::new()))
        }
    };
    if let (Ok(status), Ok(setup)) = (&daemon, &setup) {
        let own = app::own_netns();
        if let (Some(its), Some(own)) = (setup.netns, own)
            && its != own
        {
            bail!(
                "the daemon of {} is in network namespace {its}, and this command is in {own}: run it \
                 in the daemon's (`nsenter --net=/proc/PID/ns/net culvert doctor`; on a node of a lab, \
                 `culvert lab exec NODE -- culvert doctor`)",
                place.run_dir.display()
            );
        }
        let expected = Expected {
            setup: setup.clone(),
            peers: status.peers.clone(),
            table: status.table.hash.clone(),
            is_in_force: true,
        };
        return Ok((daemon, unanswered, Ok(expected)));
    }
    let offline = config.as_ref().map_err(String::clone).and_then(|config| {
        let (setup, peers, table) = app::setup(config).map_err(|error| format!("{error:#}"))?;
        Ok(Expected { setup, peers, table, is_in_force: false })
    });
    let offline = offline.map_err(|why| {
        format!("neither daemon nor configuration says how this node is to be: {why}")
    });
    Ok((daemon, unanswered, offline))
}

fn heading(
    daemon: &Answer<Status>,
    expected: &Answer<Expected>,
    config: &Answer<Config>,
) -> Heading {
    let node = match (daemon, config) {
        (Ok(status), _) => status.node.clone(),
        (_, Ok(config)) => config.node.name.clone(),
        _ => String::new(),
    };
    Heading {
        node,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        table: expected.as_ref().map(|it| it.table.clone()).unwrap_or_default(),
        nodes: expected.as_ref().map_or(0, |it| it.peers.len() + 1),
    }
}

/// What counts, two times each: sockets, how often they had no room, and the drops of the TUN
/// device.
type Twice = (Answer<[Vec<UdpSocket>; 2]>, Option<[u64; 2]>, Option<[u64; 2]>);

fn twice(tun: &str) -> Twice {
    let look = || (sockets(), overflows(), tun_drops(tun));
    let first = look();
    thread::sleep(BETWEEN);
    let second = look();
    let both = |one: Option<u64>, other: Option<u64>| one.zip(other).map(<[u64; 2]>::from);
    let sockets = first.0.and_then(|first| Ok([first, second.0?]));
    (sockets, both(first.1, second.1), both(first.2, second.2))
}

/// Which tables the peers have. All are asked once more if one differs from ours, since a change
/// comes to all of them one after the other, or is not ready, which may be over as soon.
fn tables(run_dir: &Path, own: &str) -> Answer<Vec<PeerTable>> {
    let ask = || observe::tables(run_dir).map_err(|error| format!("{error:#}"));
    let first = ask()?;
    let differs = |it: &PeerTable| {
        it.table.as_ref().is_some_and(|table| table != own) || it.is_ready == Some(false)
    };
    if !first.iter().any(differs) {
        return Ok(first);
    }
    thread::sleep(AGAIN);
    ask()
}

/// What the kernel knows of those on the link that has the underlay address.
fn neighbours(links: &[Link], addresses: &[Address], own: Option<IpAddr>) -> Answer<Neighbours> {
    let own = own.ok_or("the underlay address is not known")?;
    let holder = addresses.iter().find(|has| has.net.addr() == own);
    let link = holder.and_then(|holder| links.iter().find(|link| link.index == holder.link));
    let link = link.ok_or_else(|| format!("no device has {own}"))?;
    let known = app::neighbours(link.index).map_err(|error| format!("{error:#}"))?;
    Ok(Neighbours { device: link.name.clone(), known })
}

fn sockets() -> Answer<Vec<UdpSocket>> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let mut found = udp_sockets(&read("/proc/thread-self/net/udp")?);
    // There where the kernel has IPv6.
    if let Ok(text) = read("/proc/thread-self/net/udp6") {
        found.extend(udp_sockets(&text));
    }
    Ok(found)
}

fn tun_drops(tun: &str) -> Option<u64> {
    transmit_drops(&fs::read_to_string("/proc/thread-self/net/dev").ok()?, tun)
}

fn firewall() -> Answer<Firewall> {
    let rules = app::foreign_rules().map_err(|error| format!("{error:#}"))?;
    let (legacy, unread) = app::legacy_tables();
    Ok(Firewall { rules, legacy, unread })
}

/// The parameters of devices that checks ask for; of those there are.
fn parameters(sysctls: &Sysctls, links: &[Link]) -> Answer<Vec<(String, String)>> {
    let of_all = ["net/ipv4/conf/all/rp_filter", "net/ipv6/conf/all/forwarding"];
    let mut keys: Vec<String> = of_all.map(str::to_owned).into();
    keys.extend([true, false].map(|is_ipv4| app::frames_parameter(is_ipv4).to_owned()));
    // Those of pods' cables nobody asks for.
    for link in links.iter().filter(|link| link.controller.is_none() && link.kind != LinkKind::Tun)
    {
        keys.push(format!("net/ipv4/conf/{}/rp_filter", link.name));
        keys.push(format!("net/ipv6/conf/{}/accept_ra", link.name));
    }
    let read = |key: String| match sysctls.read(&key) {
        Ok(value) => value.map(|value| Ok((key, value))),
        Err(error) => Some(Err(error.to_string())),
    };
    keys.into_iter().filter_map(read).collect()
}

fn tracked(sysctls: &Sysctls) -> Answer<Option<[u64; 2]>> {
    let read = |name: &str| {
        let value = sysctls.read(&format!("net/netfilter/nf_conntrack_{name}"));
        let value = value.map_err(|error| error.to_string())?;
        Ok::<_, String>(value.and_then(|value| value.trim().parse().ok()))
    };
    Ok(read("count")?.zip(read("max")?).map(<[u64; 2]>::from))
}

fn time(expected: &Answer<Expected>, config: &Answer<Config>) -> Clock {
    let synchronised = timekeeping::is_synchronised();
    let mut files: Vec<PathBuf> = Vec::new();
    files.extend(expected.as_ref().ok().and_then(|it| it.setup.table.clone()));
    let state_dir = state_dir(expected, config);
    let entries = fs::read_dir(&state_dir).into_iter().flatten();
    files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    let now = UNIX_EPOCH + Duration::from_nanos(clock::unix_nanos());
    let ahead = |file: PathBuf| {
        let written = fs::metadata(&file).ok()?.modified().ok()?;
        let ahead = written.duration_since(now).ok()?;
        (ahead > TOLERANCE).then_some((file, ahead))
    };
    Clock {
        is_synchronised: synchronised.map_err(|error| error.to_string()),
        future: files.into_iter().filter_map(ahead).max_by_key(|(_, ahead)| *ahead),
    }
}

fn state_dir(expected: &Answer<Expected>, config: &Answer<Config>) -> PathBuf {
    match (expected, config) {
        (Ok(expected), _) => expected.setup.state_dir.clone(),
        (_, Ok(config)) => config.node.state_dir.clone(),
        _ => DEFAULT_STATE_DIR.into(),
    }
}

fn ipam(
    place: &Place<'_>,
    expected: &Answer<Expected>,
    config: &Answer<Config>,
) -> Answer<ipam::Check> {
    let expected_subnets = expected.as_ref().map(|it| it.setup.local_subnets.clone());
    let subnets = expected_subnets.map_err(String::clone)?;
    let state_dir = state_dir(expected, config);
    ipam::check(&state_dir, place.run_dir, &subnets).map_err(|error| format!("{error:#}"))
}

/// Who on the link says that he has the underlay address, and who that he has one of `peers`; the
/// error says why nobody was asked.
fn holders(
    links: &[Link],
    addresses: &[Address],
    own: Option<IpAddr>,
    peers: &[PeerStatus],
) -> Answer<Vec<Claim>> {
    let own = own.ok_or("the underlay address is not known")?;
    let IpAddr::V4(address) = own else {
        return Err("over IPv6 nobody is asked".to_owned());
    };
    let holder = addresses.iter().find(|has| has.net.addr() == own);
    let link = holder.and_then(|holder| links.iter().find(|link| link.index == holder.link));
    let (Some(holder), Some(link)) = (holder, link) else {
        return Err(format!("no device has {own}"));
    };
    let Some(mac) = link.mac.filter(|_| link.arp && !link.loopback) else {
        return Err(format!("on {} nobody can be asked who has an address", link.name));
    };
    let near = peers.iter().filter_map(|peer| match peer.address {
        IpAddr::V4(address) if holder.net.contains(&peer.address) => Some(address),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    });
    let asked: Vec<ArpQuestion> = std::iter::once(address)
        .chain(near)
        .map(|address| ArpQuestion { link: link.index, own: mac, address })
        .collect();
    let found = claims(&asked, &link.name)?;
    Ok(found.into_iter().filter(|claim| claim.link == link.index && claim.mac != mac).collect())
}

/// Who behind the bridge says that he has an address of the pods of `links`.
fn pod_holders(links: &[Link], setup: &Setup) -> Answer<Vec<Claim>> {
    let bridge = links.iter().find(|link| link.name == setup.bridge);
    let bridge = bridge.ok_or_else(|| format!("there is no device {}", setup.bridge))?;
    let own = bridge.mac.ok_or_else(|| format!("{} has no hardware address", setup.bridge))?;
    let asked: Vec<ArpQuestion> = ask_pods::ports(links, bridge.index)
        .flat_map(|(_, port)| port.addresses)
        .filter_map(|net| match net.addr() {
            IpAddr::V4(address) => Some(ArpQuestion { link: bridge.index, own, address }),
            IpAddr::V6(_) => None,
        })
        .collect();
    let found = claims(&asked, &setup.bridge)?;
    let is_port = |claim: &Claim| {
        let link = links.iter().find(|link| link.index == claim.link);
        link.is_some_and(|link| link.controller == Some(bridge.index))
    };
    Ok(found.into_iter().filter(is_port).collect())
}

/// Who says that he has one of the addresses that are asked for on `device`.
fn claims(asked: &[ArpQuestion], device: &str) -> Answer<Vec<Claim>> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    arp::claims(asked, LINK_PATIENCE).map_err(|error| {
        if error.kind() == io::ErrorKind::PermissionDenied {
            "asking the link takes CAP_NET_RAW, which this command has not".to_owned()
        } else {
            format!("asking on {device}: {error}")
        }
    })
}
