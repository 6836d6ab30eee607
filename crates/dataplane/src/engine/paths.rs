//! By which source ports the flows toward a peer leave, and how often the peer may ask.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::underlay::{SENDERS, bucket};

const _: () = assert!(SENDERS == 16, "a path takes four bits");

/// Bits of a path's number.
const WIDTH: u32 = 4;

/// Every path by itself: digit n, from the lowest, is n.
const STRAIGHT: u64 = 0xfedc_ba98_7654_3210;

/// Questions of one peer that are answered in a second.
const ANSWERS: u32 = 64;

/// What workers know of the paths to one peer. Outlives tables, as the peer's counters do.
#[derive(Debug)]
pub struct PeerPaths {
    /// Four bits for each path: by which one its flows leave.
    detours: AtomicU64,
    /// The second in which the peer asked last, and how often it did, in halves.
    asked: AtomicU64,
    /// Whether the peer is asked by ICMP echo, so that answers have to be looked for.
    echoes: AtomicBool,
}

impl Default for PeerPaths {
    fn default() -> Self {
        Self {
            detours: AtomicU64::new(STRAIGHT),
            asked: AtomicU64::new(0),
            echoes: AtomicBool::new(false),
        }
    }
}

impl PeerPaths {
    /// The hash by which a flow leaves that has this one: another if its path is lost.
    #[inline]
    pub fn lead(&self, flow_hash: u32) -> u32 {
        let detours = self.detours.load(Ordering::Relaxed);
        if detours == STRAIGHT { flow_hash } else { lead(detours, flow_hash) }
    }

    /// Leads the flows of the paths in `lost`, a bit for each, over others. Those of the others
    /// stay where they are, and so do those that are led over a path which works still. Where none
    /// is left, all go their own ways.
    pub fn avoid(&self, lost: u16) {
        let before = self.detours.load(Ordering::Relaxed);
        self.detours.store(detours(before, lost), Ordering::Relaxed);
    }

    /// The paths whose flows leave by others, a bit for each.
    pub fn avoided(&self) -> u16 {
        let detours = self.detours.load(Ordering::Relaxed);
        (0..SENDERS).filter(|path| digit(detours, *path) != *path).map(|path| 1 << path).sum()
    }

    /// Says whether answers to ICMP echo have to be looked for among what the peer sends.
    pub fn set_echoes(&self, echoes: bool) {
        self.echoes.store(echoes, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn echoes(&self) -> bool {
        self.echoes.load(Ordering::Relaxed)
    }

    /// Whether one more question is answered, `elapsed_ms` after the daemon's start.
    pub(crate) fn may_ask(&self, elapsed_ms: u64) -> bool {
        let second = elapsed_ms / 1000;
        let next = |asked: u64| {
            let (last, count) = (asked >> 32, asked & 0xffff_ffff);
            let count = if last == second { count } else { 0 };
            (count < u64::from(ANSWERS)).then_some((second << 32) | (count + 1))
        };
        self.asked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cold]
fn lead(detours: u64, flow_hash: u32) -> u32 {
    let by = u32::try_from(digit(detours, bucket(flow_hash))).unwrap_or_default();
    hash_of(by) | (flow_hash & (u32::MAX >> WIDTH))
}

/// A hash that leads by the path.
pub(crate) fn hash_of(path: u32) -> u32 {
    path << (u32::BITS - WIDTH)
}

fn digit(detours: u64, path: usize) -> usize {
    usize::from((detours >> (path * WIDTH as usize)).to_le_bytes()[0] & 0xf)
}

/// Leads the lost paths over others, those first that fewest are led over. What is led over one
/// that works already stays there.
fn detours(before: u64, lost: u16) -> u64 {
    let works = |path: usize| lost & (1 << path) == 0;
    if lost == u16::MAX {
        return STRAIGHT;
    }
    let mut users = [0_u8; SENDERS];
    let mut by: [usize; SENDERS] = std::array::from_fn(|path| path);
    for path in (0..SENDERS).filter(|path| !works(*path)) {
        let present = digit(before, path);
        if works(present) {
            by[path] = present;
            users[present] += 1;
        }
    }
    for path in (0..SENDERS).filter(|path| !works(*path)) {
        if !works(by[path]) {
            let after = (1..SENDERS).map(|step| (path + step) % SENDERS);
            let least = after.filter(|other| works(*other)).min_by_key(|other| users[*other]);
            by[path] = least.unwrap_or(path);
            users[by[path]] += 1;
        }
    }
    by.iter().rev().fold(0, |detours, by| (detours << WIDTH) | *by as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths_of(paths: &PeerPaths) -> Vec<usize> {
        (0..16).map(|path| bucket(paths.lead(hash_of(path) | 0x123))).collect()
    }

    #[test]
    fn flows_of_lost_paths_leave_by_others_and_no_other_flow_moves() {
        let paths = PeerPaths::default();
        for lost in 0..=u16::MAX {
            paths.avoid(lost);
            let all_lost = lost == u16::MAX;
            for (path, by) in paths_of(&paths).into_iter().enumerate() {
                let is_lost = lost & (1 << path) != 0;
                assert_eq!(by == path, !is_lost || all_lost, "{lost:016b}");
                assert!(all_lost || lost & (1 << by) == 0, "{lost:016b}");
            }
            assert_eq!(paths.avoided(), if all_lost { 0 } else { lost });
        }
    }

    #[test]
    fn flows_of_many_lost_paths_share_what_is_left() {
        let paths = PeerPaths::default();
        paths.avoid(0b0000_1111_0000_1111);
        let by = paths_of(&paths);
        let most = (0..16).map(|path| by.iter().filter(|by| **by == path).count()).max();
        assert!(most <= Some(3), "{by:?}");
    }

    #[test]
    fn flows_that_have_a_way_stay_on_it_when_others_come_and_go() {
        let paths = PeerPaths::default();
        paths.avoid(1 << 3 | 1 << 9);
        let before = paths_of(&paths);
        paths.avoid(1 << 3 | 1 << 9 | 1 << 12);
        let after = paths_of(&paths);
        assert_eq!((after[3], after[9]), (before[3], before[9]));
        paths.avoid(1 << 9);
        assert_eq!(paths_of(&paths)[9], before[9]);
        paths.avoid(0);
        assert_eq!(paths_of(&paths), (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn the_rest_of_a_hash_stays() {
        let paths = PeerPaths::default();
        assert_eq!(paths.lead(0x8765_4321), 0x8765_4321);
        paths.avoid(1 << 8);
        assert_eq!(paths.lead(0x8765_4321) & 0x0fff_ffff, 0x0765_4321);
    }

    #[test]
    fn a_peer_is_answered_so_often_a_second_and_no_more() {
        let paths = PeerPaths::default();
        let granted = |ms| (0..1000).filter(|_| paths.may_ask(ms)).count();
        assert_eq!(granted(5), 64);
        assert_eq!(granted(999), 0);
        assert_eq!(granted(1000), 64);
        assert_eq!(granted(3_600_000), 64);
    }
}
