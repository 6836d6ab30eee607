//! What is asked of a pod, and what came of it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is tried with each pod, in this order: what comes first says most of what comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// A datagram of 64 bytes, and its echo.
    Udp,
    /// A TCP connection, 64 bytes each way, and whether the server sees the asker's own address.
    Tcp,
    /// A datagram that fills a packet as long as the way carries, and may not be fragmented.
    Full,
    /// A datagram that is longer than a packet, in fragments.
    Pieces,
    /// 256 KiB each way over a TCP connection, and whether they arrive as they were sent.
    Stream,
}

impl Check {
    /// All of them, in their order.
    pub const ALL: [Self; 5] = [Self::Udp, Self::Tcp, Self::Full, Self::Pieces, Self::Stream];

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Full => "full",
            Self::Pieces => "pieces",
            Self::Stream => "stream",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What was tried.
    pub check: Check,
    /// Whether it is as it should be.
    pub ok: bool,
    /// How much was sent, without headers; 0 if nothing was.
    pub bytes: usize,
    /// From sending to the last byte of the echo, in milliseconds; nothing if none came.
    pub milliseconds: Option<f64>,
    /// Attempts it took, or that were made: a datagram may be lost.
    pub attempts: u32,
    /// What happened instead: `lost`, `refused`, `unreachable`, `translated`, or what the kernel
    /// says.
    pub why: Option<String>,
}

impl Outcome {
    pub(crate) fn good(check: Check, bytes: usize, took: Duration, attempts: u32) -> Self {
        let milliseconds = Some(took.as_secs_f64() * 1e3);
        Self { check, ok: true, bytes, milliseconds, attempts, why: None }
    }

    pub(crate) fn bad(check: Check, bytes: usize, attempts: u32, why: impl Into<String>) -> Self {
        Self { check, ok: false, bytes, milliseconds: None, attempts, why: Some(why.into()) }
    }
}

/// What came of all checks with one address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Who was asked.
    pub to: SocketAddr,
    /// As whom the server saw the asker; nothing if no connection came about.
    pub seen: Option<IpAddr>,
    /// The checks in their order. Where neither the first datagram nor a connection arrives, the
    /// others are not tried.
    pub checks: Vec<Outcome>,
}

impl Found {
    /// Whether everything is as it should be.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.checks.len() == Check::ALL.len() && self.checks.iter().all(|outcome| outcome.ok)
    }

    /// How long a small datagram and its echo took.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        let of = |check| self.checks.iter().find(|outcome| outcome.check == check);
        let milliseconds = of(Check::Udp).and_then(|outcome| outcome.milliseconds)?;
        Some(Duration::from_secs_f64(milliseconds / 1e3))
    }

    /// One word for what is wrong, if anything is: where nothing arrives what happened instead,
    /// else the first check that failed.
    #[must_use]
    pub fn word(&self) -> Option<&'static str> {
        let failed = self.checks.iter().find(|outcome| !outcome.ok);
        let Some(failed) = failed else { return (!self.is_good()).then_some("none") };
        if self.checks.iter().any(|outcome| outcome.ok) {
            return Some(failed.check.word());
        }
        Some(match failed.why.as_deref() {
            Some("lost") => "lost",
            Some("refused") => "refused",
            Some("unreachable") => "unreach",
            _ => "none",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(outcomes: &[(Check, Option<&str>)]) -> Found {
        let checks = outcomes.iter().map(|(check, why)| match why {
            None => Outcome::good(*check, 64, Duration::from_micros(250), 1),
            Some(why) => Outcome::bad(*check, 64, 1, *why),
        });
        Found { to: "10.244.2.2:4794".parse().unwrap(), seen: None, checks: checks.collect() }
    }

    #[test]
    fn a_word_says_what_is_wrong() {
        let all = Check::ALL.map(|check| (check, None));
        assert_eq!(found(&all).word(), None);
        assert_eq!(found(&all).rtt(), Some(Duration::from_micros(250)));
        let mut narrow = all;
        narrow[2].1 = Some("lost");
        assert_eq!(found(&narrow).word(), Some("full"));
        assert!(!found(&narrow).is_good());
        let dead = [(Check::Udp, Some("lost")), (Check::Tcp, Some("lost"))];
        assert_eq!(found(&dead).word(), Some("lost"));
        let closed = [(Check::Udp, Some("refused")), (Check::Tcp, Some("refused"))];
        assert_eq!(found(&closed).word(), Some("refused"));
        assert_eq!(found(&[]).word(), Some("none"));
    }
}
