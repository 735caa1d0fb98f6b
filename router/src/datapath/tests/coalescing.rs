//! Small datagrams of one flow: written as few super-frames, and on the wire again exactly what they were.

use super::*;

/// UDP datagrams between the same two places, as a container's kernel gives them.
fn datagram(network: Network, id: u16, payload: usize) -> TapFrame {
    let (transport, options, tags, segment) = (Transport::Udp, 0, 0, usize::MAX);
    Shape { network, transport, options, tags, payload, segment, tcp_flags: 0, seq: 0, id }.build()
}

fn flow(network: Network, count: u16, payload: usize) -> Vec<TapFrame> {
    (0..count).map(|i| datagram(network, 0xfff0_u16.wrapping_add(i), payload)).collect()
}

fn arrivals(frames: &[TapFrame]) -> Vec<TapFrame> {
    let mut pair = Pair::new(1472);
    pair.send(frames);
    pair.carry(|| true);
    assert_eq!(pair.drops(), []);
    pair.world.written
}

/// Changes a frame, and mends the sum of its IPv4 header.
fn changed((header, mut frame): TapFrame, change: impl Fn(&mut [u8])) -> TapFrame {
    change(&mut frame);
    frame[24..26].fill(0);
    let sum = !checksum::sum(0, &frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let headers = Headers::parse(&frame).expect("still well formed");
    let length = frame.len() - headers.l4;
    crate::datapath::rewrite::seed(&mut frame, &headers, length);
    (header, frame)
}

#[test]
fn datagrams_of_one_flow_are_written_together() {
    for network in [Network::Ipv4, Network::Ipv6] {
        let mut frames = flow(network, 100, 64);
        frames.push(datagram(network, 0xfff0_u16.wrapping_add(100), 20));
        let written = arrivals(&frames);
        assert_eq!(written.len(), 2, "64, which old kernels take, and 37");
        assert!(written.iter().all(|(header, _)| header.gso_type == virtio::GSO_UDP_L4));
        assert_eq!(segments_of(&written), segments_of(&frames));
    }
}

#[test]
fn what_differs_is_written_apart() {
    let [one, two] = [0, 1].map(|id| datagram(Network::Ipv4, id, 64));
    let broken = |(header, mut frame): TapFrame| {
        frame[24] ^= 1;
        (header, frame)
    };
    let complete = |(_, mut frame): TapFrame| {
        checksum::complete(&mut frame[34..], 6).expect("field");
        (virtio::Header::default(), frame)
    };
    let cases = [
        ("longer", datagram(Network::Ipv4, 1, 65)),
        ("type of service", changed(two.clone(), |f| f[15] = 3)),
        ("hop limit", changed(two.clone(), |f| f[22] = 7)),
        ("source port", changed(two.clone(), |f| f[35] ^= 1)),
        ("destination port", changed(two.clone(), |f| f[37] ^= 1)),
        ("address", changed(two.clone(), |f| f[29] = 9)),
        ("identification that counts", changed(two.clone(), |f| (f[19], f[20]) = (9, 0))),
        ("broken header", broken(two.clone())),
        ("complete checksum", complete(two.clone())),
        ("behind the payload", {
            let (header, mut frame) = two.clone();
            frame.push(0);
            (header, frame)
        }),
    ];
    for (what, other) in cases {
        for frames in [[one.clone(), other.clone()], [other, one.clone()]] {
            let written = arrivals(&frames);
            let bytes = |frames: &[TapFrame]| frames.iter().map(|(_, f)| f.clone()).collect::<Vec<_>>();
            assert_eq!(bytes(&written), bytes(&frames), "{what}");
            assert!(written.iter().all(|(header, _)| header.gso_type == virtio::GSO_NONE), "{what}");
        }
    }
}

#[test]
fn same_identification_is_joined_where_it_means_nothing() {
    let same = [0, 1].map(|_| datagram(Network::Ipv4, 7, 64));
    assert_eq!(arrivals(&same).len(), 1);
    let fragmentable = same.map(|frame| changed(frame, |f| f[20] = 0));
    assert_eq!(arrivals(&fragmentable).len(), 2);
}

#[test]
fn counters_agree_on_both_sides() {
    let mut pair = Pair::without_lane(1472);
    let (sent, received) = (Arc::<Traffic>::default(), Arc::<Traffic>::default());
    pair.connect_with(Arc::clone(&sent), Arc::clone(&received));
    pair.send(&flow(Network::Ipv4, 30, 100));
    pair.carry(|| true);
    assert_eq!((received.frames.read(), received.bytes.read()), (30, 30 * 142));
    assert_eq!((sent.frames.read(), sent.bytes.read()), (30, 30 * 142));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn mixed_flows_keep_order_and_bytes(
        frames in proptest::collection::vec((0..3u8, 0..3u8, 1..4usize, 0..4u8), 1..80), loss in 0..40u64, seed: u64,
    ) {
        let mut ids = [100u16; 3];
        let frames: Vec<TapFrame> = frames.iter().map(|&(port, version, length, skip)| {
            let network = if version == 0 { Network::Ipv6 } else { Network::Ipv4 };
            ids[usize::from(port)] += 1 + u16::from(skip == 0);
            let frame = datagram(network, ids[usize::from(port)], length * 40);
            if network == Network::Ipv4 { changed(frame, |f| f[35] = port) } else { frame }
        }).collect();
        let mut pair = Pair::new(1472);
        pair.send(&frames);
        let mut state = seed | 1;
        let mut lost = false;
        pair.carry(|| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let keep = (state >> 33) % 100 >= loss;
            lost |= !keep;
            keep
        });
        let (arrived, all) = (segments_of(&pair.world.written), segments_of(&frames));
        prop_assert!(arrived.iter().all(|frame| checksums_verify(frame)));
        if lost {
            let mut rest = all.iter();
            prop_assert!(arrived.iter().all(|frame| rest.any(|other| other == frame)), "unknown or out of order");
        } else {
            prop_assert_eq!(arrived, all);
        }
    }
}
