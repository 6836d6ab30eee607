use super::*;

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fn prober() -> (Prober, Moment) {
    let mut prober = Prober::new(Options::default(), 7);
    let now = Moment::after_start(Duration::from_secs(1));
    let entry = Entry { address: PEER, spread: 9, may_know_stamp: true, route_mtu: 1500 };
    prober.set_peer(&entry, now);
    prober.on_traffic(PEER, now);
    (prober, now)
}

#[test]
fn answers_that_nobody_was_asked_for_prove_nothing() {
    let (mut prober, now) = prober();
    let Question { sequence, nonce, form, .. } = prober.poll(now).expect("a question");
    let right = Arrived { peer: PEER, sequence, nonce, form };
    let wrong = [
        Arrived { nonce: nonce ^ 1, ..right },
        Arrived { sequence: sequence + 100, ..right },
        Arrived { peer: [10, 0, 0, 2].into(), ..right },
        Arrived { form: Form::Echo, nonce: 0, ..right },
    ];
    for arrived in wrong {
        assert_eq!(prober.on_answer(&arrived, now, now), None, "{arrived:?}");
    }
    assert_eq!(prober.view(PEER).expect("a peer").state, State::Unknown);
    assert!(prober.on_answer(&right, now, now).is_some());
    assert_eq!(prober.on_answer(&right, now, now), None, "a second time");
    assert_eq!(prober.view(PEER).expect("a peer").state, State::Well);
}

#[test]
fn peers_without_traffic_are_asked_rarely_and_at_different_times() {
    let mut prober = Prober::new(Options::default(), 7);
    let mut now = Moment::default();
    let entries: Vec<Entry> = (0..1000_u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            let spread = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let address = [10, 0, high, low].into();
            Entry { address, spread, may_know_stamp: false, route_mtu: 1500 }
        })
        .collect();
    entries.iter().for_each(|entry| prober.set_peer(entry, now));
    let (mut all, mut most) = (0, 0);
    for _ in 0..600 {
        now = now + Duration::from_secs(1);
        let mut count = 0;
        while let Some(question) = prober.poll(now) {
            let Question { peer, sequence, nonce, form, .. } = question;
            prober.on_answer(&Arrived { peer, sequence, nonce, form }, now, now);
            count += 1;
        }
        (all, most) = (all + count, most.max(count));
    }
    assert!((990..=1010).contains(&all), "{all}");
    assert!(most <= 10, "{most} in a second");
}

#[test]
fn peer_that_leaves_takes_its_trial_and_its_questions_with_it() {
    let (mut prober, now) = prober();
    prober.on_hint(PEER, Hint::Refused, now);
    assert!(prober.poll(now).is_some());
    assert_eq!((prober.trials, prober.active), (1, 1));
    prober.remove_peer(PEER);
    assert_eq!((prober.trials, prober.active, prober.searches), (0, 0, 0));
    assert_eq!((prober.poll(now), prober.due(), prober.view(PEER)), (None, None, None));
    prober.remove_peer(PEER);
}

#[test]
fn another_node_at_the_address_of_a_peer_is_not_known() {
    let (mut prober, now) = prober();
    let question = prober.poll(now).unwrap();
    let Question { peer, sequence, nonce, form, .. } = question;
    assert!(prober.on_answer(&Arrived { peer, sequence, nonce, form }, now, now).is_some());
    let entry = Entry { address: PEER, spread: 9, may_know_stamp: true, route_mtu: 1500 };
    prober.set_peer(&entry, now);
    assert_eq!(prober.view(PEER).unwrap().state, State::Well);
    prober.set_peer(&Entry { spread: 10, ..entry }, now);
    assert_eq!(prober.view(PEER).unwrap().state, State::Unknown);
    assert_eq!(prober.views().count(), 1);
}

/// Lets some time pass on a path of this width.
fn pass(prober: &mut Prober, now: &mut Moment, width: u16, seconds: u64) {
    for _ in 0..seconds * 100 {
        *now = *now + Duration::from_millis(10);
        prober.on_traffic(PEER, *now);
        while let Some(question) = prober.poll(*now) {
            let Question { peer, sequence, nonce, form, packet_len, .. } = question;
            if packet_len.is_none_or(|len| len <= width) {
                prober.on_answer(&Arrived { peer, sequence, nonce, form }, *now, *now);
            }
        }
    }
}

#[test]
fn path_that_was_narrow_is_looked_at_again_when_somebody_asks() {
    let (mut prober, mut now) = prober();
    pass(&mut prober, &mut now, 1400, 30);
    assert_eq!(prober.view(PEER).unwrap().mtu, Some(1400));
    // By itself it is looked at every ten minutes.
    pass(&mut prober, &mut now, 1500, 30);
    assert_eq!(prober.view(PEER).unwrap().mtu, Some(1400));
    prober.on_hint(PEER, Hint::Wider, now);
    pass(&mut prober, &mut now, 1500, 1);
    assert_eq!(prober.view(PEER).unwrap().mtu, None);
    // It need not be true.
    pass(&mut prober, &mut now, 1400, 30);
    prober.on_hint(PEER, Hint::Wider, now);
    pass(&mut prober, &mut now, 1400, 5);
    assert_eq!(prober.view(PEER).unwrap().mtu, Some(1400));
}
