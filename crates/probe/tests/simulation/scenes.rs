//! What goes wrong in a run, and what must hold then.

use std::time::Duration;

use culvert_probe::{Event, State};

use crate::random::Random;
use crate::world::{ROUTE, Truth, World, peer};

/// One kind of trouble.
type Scene = fn(u64, bool);

pub(crate) const SCENES: [Scene; 9] = [
    chance_is_no_finding,
    dead_peer_is_found_and_found_again,
    refused_peer_is_found_at_once,
    broken_paths_under_traffic_are_named,
    broken_paths_are_named,
    paths_of_the_peer_are_told_apart,
    narrow_paths_are_measured,
    old_peers_are_asked_otherwise,
    trouble_of_all_kinds_ends_in_the_truth,
];

pub(crate) fn run(seed: u64, is_told: bool) {
    let scenes = SCENES.len() as u64;
    SCENES[usize::try_from(seed % scenes).unwrap()](seed / scenes, is_told);
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn rtt(random: &mut Random) -> Duration {
    let micros = random.one_of(&[100, 1_000, 20_000, 120_000]);
    Duration::from_micros(micros)
}

/// Single questions get lost, up to every fifth: no peer, path or MTU is found wanting.
fn chance_is_no_finding(seed: u64, is_told: bool) {
    let mut random = Random::new(seed);
    let truths = (0..4)
        .map(|_| {
            let loss = random.one_of(&[1, 5, 10, 20]);
            Truth { loss, rtt: rtt(&mut random), ..Truth::default() }
        })
        .collect();
    let mut world = World::new(seed, truths, is_told);
    world.pass(seconds(1800));
    assert_eq!(world.events, []);
}

/// A peer that dies without a word is lost within 13 seconds, and back within ten.
fn dead_peer_is_found_and_found_again(seed: u64, is_told: bool) {
    let mut random = Random::new(seed);
    let truths = (0..3).map(|_| Truth { rtt: rtt(&mut random), ..Truth::default() }).collect();
    let mut world = World::new(seed, truths, is_told);
    world.pass(seconds(20) + Duration::from_millis(random.below(40_000)));
    for _ in 0..3 {
        world.truth(0).lives = false;
        world.pass(Duration::from_millis(13_600));
        assert_eq!(world.view(0).state, State::Silent);
        world.pass(seconds(random.below(100)));
        world.truth(0).lives = true;
        world.pass(seconds(10));
        assert_eq!(world.view(0).state, State::Well);
        world.pass(seconds(random.below(100)));
    }
    let about = |number| world.events.iter().filter(move |(_, it)| it.peer() == peer(number));
    assert_eq!(about(0).count(), 6, "{:?}", world.events);
    assert_eq!((about(1).count(), about(2).count()), (0, 0));
}

/// Where its kernel says that nobody listens, a second is enough. A lie changes nothing.
fn refused_peer_is_found_at_once(seed: u64, is_told: bool) {
    let mut random = Random::new(seed);
    let truth = Truth { refuses: true, ..Truth::default() };
    let mut world = World::new(seed, vec![truth, Truth::default()], is_told);
    world.pass(seconds(30) + Duration::from_millis(random.below(20_000)));
    for _ in 0..100 {
        world.prober.on_hint(peer(1), culvert_probe::Hint::Refused, world.now);
        world.pass(Duration::from_millis(random.below(3000)));
    }
    assert_eq!(world.events, []);
    for _ in 0..3 {
        world.truth(0).lives = false;
        // Half a second until the hint is heard, and half a second of questions.
        world.pass(Duration::from_millis(1050));
        assert_eq!(world.view(0).state, State::Refused);
        // A daemon that is started again may soon end once more.
        world.truth(0).lives = true;
        world.pass(Duration::from_millis(2500 + random.below(3000)));
        assert_eq!(world.view(0).state, State::Well);
    }
    // Nor does a lie hide a path that is lost.
    world.truth(1).broken = random.paths(1);
    for _ in 0..275 {
        world.prober.on_hint(peer(1), culvert_probe::Hint::Refused, world.now);
        world.pass(Duration::from_millis(80));
    }
    assert_eq!(world.view(1).lost_paths, world.truth(1).broken);
}

/// While packets flow, a turn through all paths takes ten seconds.
fn broken_paths_under_traffic_are_named(seed: u64, is_told: bool) {
    name_broken_paths(seed, is_told, Truth::default().pause, seconds(10));
}

/// With a packet now and then it takes 160 seconds.
fn broken_paths_are_named(seed: u64, is_told: bool) {
    name_broken_paths(seed, is_told, seconds(40), seconds(160));
}

/// Any number of source ports leads nowhere: those are named, no others, and only as long.
fn name_broken_paths(seed: u64, is_told: bool, pause: Duration, turn: Duration) {
    let mut random = Random::new(seed);
    let truths = (0..2).map(|_| Truth { rtt: rtt(&mut random), pause, ..Truth::default() });
    let mut world = World::new(seed, truths.collect(), is_told);
    world.pass(seconds(15));
    for _ in 0..3 {
        let count = random.one_of(&[1, 1, 2, 4, 8, 15]);
        let broken = random.paths(count);
        world.truth(0).broken = broken;
        world.tell(format_args!("broken: {broken:016b}"));
        // A trial of one path takes five seconds at most; of many, some more rounds.
        world.pass(turn + seconds(if count == 1 { 5 } else { 10 }));
        assert_eq!(world.view(0).lost_paths, broken, "of {broken:016b}");
        world.truth(0).broken = 0;
        world.pass(seconds(13));
        assert_eq!(world.view(0).lost_paths, 0, "of {broken:016b}");
    }
    let wrong = |event: &Event| match event {
        Event::Lost(..) | Event::Back(_) | Event::Mtu(..) => true,
        Event::Paths(of, _, theirs) => *theirs != 0 || *of != peer(0),
    };
    assert!(!world.events.iter().any(|(_, event)| wrong(event)), "{:?}", world.events);
}

/// A way back that leads nowhere is not taken for one of ours.
fn paths_of_the_peer_are_told_apart(seed: u64, is_told: bool) {
    let mut random = Random::new(seed);
    let mut world = World::new(seed, vec![Truth::default()], is_told);
    world.pass(seconds(15));
    let (ours, theirs) = (random.one_of(&[0, 1, 3]), random.one_of(&[1, 2, 5]));
    let (ours, theirs) = (random.paths(ours), random.paths(theirs));
    (world.truth(0).broken, world.truth(0).answers_broken) = (ours, theirs);
    world.tell(format_args!("broken: {ours:016b} and back {theirs:016b}"));
    world.pass(seconds(190));
    let view = world.view(0);
    assert_eq!((view.lost_paths, view.lost_answers), (ours, theirs));
    (world.truth(0).broken, world.truth(0).answers_broken) = (0, 0);
    world.pass(seconds(26));
    let view = world.view(0);
    assert_eq!((view.lost_paths, view.lost_answers), (0, 0));
    assert!(!world.events.iter().any(|(_, event)| matches!(event, Event::Lost(..))));
}

/// What a path carries is found to four bytes, whenever it changes, though some questions get lost.
fn narrow_paths_are_measured(seed: u64, is_told: bool) {
    let mut random = Random::new(seed);
    let width =
        |random: &mut Random| u16::try_from(1280 + random.below(u64::from(ROUTE) - 1280)).unwrap();
    let mtu = if random.percent(70) { width(&mut random) } else { ROUTE };
    let loss = random.below(3);
    let truth = Truth { mtus: [mtu; 16], loss, rtt: Duration::from_millis(1), ..Truth::default() };
    let mut world = World::new(seed, vec![truth], is_told);
    world.tell(format_args!("the path carries {mtu}, {loss} % get lost"));
    let measured = |world: &World, mtu: u16| {
        let found = world.view(0).mtu.unwrap_or(ROUTE);
        found <= mtu && found + 4 >= mtu
    };
    // From the first packet on, so that a transfer goes on within four seconds.
    world.pass(if loss == 0 { Duration::from_millis(2500) } else { seconds(30) });
    assert!(measured(&world, mtu), "{mtu}: {:?}", world.view(0));
    world.pass(seconds(random.below(60)));
    let narrower = width(&mut random).min(mtu);
    world.truth(0).mtus = [narrower; 16];
    world.tell(format_args!("the path carries {narrower}"));
    world.pass(seconds(35));
    assert!(measured(&world, narrower), "{narrower}: {:?}", world.view(0));
    world.truth(0).mtus = [ROUTE; 16];
    world.tell(format_args!("the path carries {ROUTE}"));
    world.pass(seconds(630));
    assert_eq!(world.view(0).mtu, None);
}

/// A peer that does not know STAMP is asked by ICMP echo, and tried by STAMP every ten minutes.
fn old_peers_are_asked_otherwise(seed: u64, is_told: bool) {
    let truth = Truth { knows_stamp: false, ..Truth::default() };
    let mut world = World::new(seed, vec![truth], is_told);
    world.pass(seconds(120));
    assert_eq!(world.view(0).state, State::Well);
    world.truth(0).lives = false;
    world.pass(Duration::from_millis(13_600));
    assert_eq!(world.view(0).state, State::Silent);
    (world.truth(0).lives, world.truth(0).knows_stamp) = (true, true);
    world.pass(seconds(650));
    assert_eq!(world.view(0).state, State::Well);
    assert!(!world.prober.is_echoing(peer(0)), "it was updated");
}

/// Whatever happens in any order: when it is over, what is known is true.
fn trouble_of_all_kinds_ends_in_the_truth(seed: u64, is_told: bool) {
    let mut random = Random::new(seed);
    let truths = (0..5).map(|_| Truth { rtt: rtt(&mut random), ..Truth::default() }).collect();
    let mut world = World::new(seed, truths, is_told);
    for _ in 0..20 {
        world.pass(Duration::from_millis(random.below(30_000)));
        let number = u16::try_from(random.below(5)).unwrap();
        let count = u32::try_from(random.below(17)).unwrap();
        let paths = random.paths(count);
        let truth = world.truth(number);
        match random.below(8) {
            0 => truth.lives = !truth.lives,
            1 => truth.broken = paths,
            2 => truth.answers_broken = paths,
            3 => truth.loss = random.below(90),
            4 => truth.mtus = [u16::try_from(1280 + random.below(220)).unwrap(); 16],
            5 => truth.refuses = !truth.refuses,
            6 => truth.has_traffic = !truth.has_traffic,
            _ => truth.rtt = rtt(&mut random),
        }
        let truth = format!("{:?}", world.truth(number));
        world.tell(format_args!("{number}: {truth}"));
    }
    let count = random.one_of(&[0, 1, 2, 3]);
    let broken = random.paths(count);
    for number in 0..5 {
        let lives = number != 3;
        *world.truth(number) =
            Truth { lives, broken: if number == 1 { broken } else { 0 }, ..Truth::default() };
    }
    world.tell(format_args!("over; of 1 {broken:016b} are broken, 3 is dead"));
    world.pass(seconds(660));
    for number in 0..5 {
        let view = world.view(number);
        let state = if number == 3 { State::Silent } else { State::Well };
        let lost = if number == 1 { broken } else { 0 };
        let is_known = view.state.is_lost() == state.is_lost() && view.lost_paths == lost;
        assert!(is_known && view.lost_answers == 0, "{number}: {view:?}, not {lost:016b}");
        assert_eq!(view.mtu.filter(|_| number != 3), None, "{number}: {view:?}");
    }
    assert!(world.questions < 20_000, "{} in a quarter of an hour", world.questions);
}
