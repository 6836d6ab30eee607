//! What two pods say to one another all the time, and how much of it gets lost.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use culvert_lab::{Netns, clock};

/// Between two datagrams, and between two words of a connection.
const PACE: Duration = Duration::from_millis(5);

/// How long after the last datagram one whose echo has not come is lost.
const LATE: Duration = Duration::from_millis(500);

/// A connection that is silent for so long is dead.
const DEAD: Duration = Duration::from_secs(20);

/// Datagrams with echoes, and a TCP connection, between two pods.
pub(super) struct Traffic {
    ended: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    echoed: Arc<Mutex<BTreeSet<u64>>>,
    /// The longest silence of the connection since somebody asked, in microseconds.
    silence: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// What was lost within some time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    pub(super) sent: u64,
    pub(super) lost: u64,
    pub(super) silence: Duration,
}

impl Lost {
    /// Milliseconds of silence, and not seconds: a machine that runs much else adds to them.
    #[track_caller]
    pub(super) fn assert_little(self) {
        assert!(self.lost * 4 < self.sent && self.silence < Duration::from_secs(2), "{self:?}");
    }
}

impl Traffic {
    pub(super) fn start(from: &Netns, (to, address): (&Netns, &str)) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let mut traffic = Self {
            ended,
            sent: Arc::default(),
            echoed: Arc::default(),
            silence: Arc::default(),
            threads: Vec::new(),
        };
        let address = SocketAddr::new(address.parse().unwrap(), 0);
        traffic.datagrams(from, to, address);
        traffic.connection(from, to, address);
        traffic
    }

    fn datagrams(&mut self, from: &Netns, to: &Netns, address: SocketAddr) {
        let server = to.run(|| UdpSocket::bind(address)).unwrap().unwrap();
        let target = server.local_addr().unwrap();
        let client = from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        client.connect(target).unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        }
        let ended = Arc::clone(&self.ended);
        self.threads.push(thread::spawn(move || {
            let mut datagram = [0; 8];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((len, source)) = server.recv_from(&mut datagram) {
                    let _ = server.send_to(&datagram[..len], source);
                }
            }
        }));
        let (ended, echoed) = (Arc::clone(&self.ended), Arc::clone(&self.echoed));
        let listening = client.try_clone().unwrap();
        self.threads.push(thread::spawn(move || {
            let mut datagram = [0; 8];
            while !ended.load(Ordering::Relaxed) {
                if listening.recv(&mut datagram).is_ok() {
                    echoed.lock().unwrap().insert(u64::from_be_bytes(datagram));
                }
            }
        }));
        let (ended, sent) = (Arc::clone(&self.ended), Arc::clone(&self.sent));
        self.threads.push(thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let number = sent.load(Ordering::Relaxed);
                // One that an ICMP error came for is lost too.
                let _ = client.send(&number.to_be_bytes());
                sent.store(number + 1, Ordering::Relaxed);
                thread::sleep(PACE);
            }
        }));
    }

    fn connection(&mut self, from: &Netns, to: &Netns, address: SocketAddr) {
        let listener = to.run(|| TcpListener::bind(address)).unwrap().unwrap();
        let server = listener.local_addr().unwrap();
        let mut client = from.run(|| TcpStream::connect(server)).unwrap().unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        for stream in [&client, &accepted] {
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(DEAD)).unwrap();
        }
        self.threads.push(thread::spawn(move || {
            let mut word = [0; 8];
            while accepted.read_exact(&mut word).is_ok() {
                accepted.write_all(&word).unwrap();
            }
        }));
        let (ended, silence) = (Arc::clone(&self.ended), Arc::clone(&self.silence));
        self.threads.push(thread::spawn(move || {
            let mut number = 0_u64;
            while !ended.load(Ordering::Relaxed) {
                let start = clock::now();
                let mut word = number.to_be_bytes();
                client.write_all(&word).expect("the connection lives");
                client.read_exact(&mut word).expect("the connection lives");
                assert_eq!(u64::from_be_bytes(word), number);
                let micros = u64::try_from(start.elapsed().as_micros()).unwrap();
                silence.fetch_max(micros, Ordering::Relaxed);
                number += 1;
                thread::sleep(PACE);
            }
        }));
    }

    /// What is lost while `work` is done, and until everything is quiet again.
    pub(super) fn during(streams: &[Self], work: impl FnOnce()) -> Lost {
        let before: Vec<u64> = streams
            .iter()
            .map(|stream| {
                stream.silence.store(0, Ordering::Relaxed);
                stream.sent.load(Ordering::Relaxed)
            })
            .collect();
        work();
        thread::sleep(LATE);
        let after: Vec<u64> =
            streams.iter().map(|stream| stream.sent.load(Ordering::Relaxed)).collect();
        thread::sleep(LATE);
        let mut all = Lost { sent: 0, lost: 0, silence: Duration::ZERO };
        for ((stream, first), end) in streams.iter().zip(before).zip(after) {
            let echoed = stream.echoed.lock().unwrap();
            let missing = (first..end).filter(|number| !echoed.contains(number)).count();
            all.sent += end - first;
            all.lost += u64::try_from(missing).unwrap();
            let silence = Duration::from_micros(stream.silence.load(Ordering::Relaxed));
            all.silence = all.silence.max(silence);
        }
        all
    }

    /// Ends everything; panics if the connection did not live.
    pub(super) fn stop(mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}
