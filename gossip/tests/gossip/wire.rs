//! Messages in bytes: round trips, and bytes from anybody.

use gossip::wire::{
    Announcement, Claim, Class, KEY_BUCKETS, KeyDigest, Message, ORIGIN_BUCKETS, OriginDigest, Pulse,
    Purpose, Range, Rumour, Standing,
};
use gossip::{Kind, MAX_MESSAGE, MAX_NAME, MAX_VALUE, PeerId, Record, RecordKey};
use proptest::prelude::*;

fn ids() -> impl Strategy<Value = PeerId> {
    any::<[u8; 16]>().prop_map(PeerId)
}

fn keys() -> impl Strategy<Value = RecordKey> {
    (any::<u8>(), prop::collection::vec(any::<u8>(), 0..20))
        .prop_map(|(kind, name)| RecordKey::new(Kind(kind), name))
}

fn signatures() -> impl Strategy<Value = [u8; 64]> {
    any::<([u8; 32], [u8; 32])>().prop_map(|(one, other)| [one, other].concat().try_into().expect("64 bytes"))
}

fn records() -> impl Strategy<Value = Record> {
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..200));
    (ids(), keys(), any::<u64>(), value, signatures()).prop_map(|(origin, key, version, value, signature)| {
        Record { origin, key, version, value, signature }
    })
}

fn rumours() -> impl Strategy<Value = Rumour> {
    let claim = prop_oneof![
        Just(Claim::Alive),
        prop::collection::vec(ids(), 0..=3).prop_map(|by| Claim::Suspect { by }),
        Just(Claim::Dead),
        Just(Claim::Left)
    ];
    (ids(), any::<u64>(), signatures(), claim).prop_map(|(subject, incarnation, proof, claim)| Rumour {
        subject,
        incarnation,
        proof,
        claim,
    })
}

pub(crate) fn messages() -> impl Strategy<Value = Message> {
    let pulse = (any::<u8>(), any::<u64>()).prop_map(|(degree, root)| Pulse { degree, root });
    let purpose = prop_oneof![Just(Purpose::Neighbour), Just(Purpose::Relay)];
    let class = prop_oneof![Just(Class::Alive), Just(Class::Dead), Just(Class::Left)];
    let standing = (any::<u64>(), class).prop_map(|(incarnation, class)| Standing { incarnation, class });
    let origin = (ids(), any::<u64>(), prop::option::of(standing))
        .prop_map(|(origin, records, standing)| OriginDigest { origin, records, standing });
    let key = || {
        (keys(), any::<u64>(), any::<u32>()).prop_map(|(key, version, check)| KeyDigest {
            key,
            version,
            check,
        })
    };
    let announcement = (ids(), key()).prop_map(|(origin, record)| Announcement { origin, record });
    let range = |after, upto| Range { after, upto };
    prop_oneof![
        (any::<u32>(), purpose, pulse.clone()).prop_map(|(nonce, purpose, pulse)| Message::Probe {
            nonce,
            purpose,
            pulse
        }),
        (any::<u32>(), pulse).prop_map(|(nonce, pulse)| Message::Ack { nonce, pulse }),
        (any::<u32>(), ids()).prop_map(|(nonce, target)| Message::ProbeRequest { nonce, target }),
        any::<u32>().prop_map(|nonce| Message::RelayedAck { nonce }),
        any::<u32>().prop_map(|nonce| Message::Nack { nonce }),
        Just(Message::Prune),
        prop::collection::vec(rumours(), 0..5).prop_map(Message::Rumours),
        prop::collection::vec(records(), 0..3).prop_map(Message::Push),
        any::<u64>().prop_map(|root| Message::Digest { root }),
        prop::collection::vec(any::<u64>(), ORIGIN_BUCKETS)
            .prop_map(|buckets| Message::DigestReply { buckets }),
        (
            any::<u64>(),
            prop::option::of(ids()),
            prop::option::of(ids()),
            prop::collection::vec(origin, 0..20)
        )
            .prop_map(move |(mask, after, upto, entries)| Message::Origins {
                mask,
                range: range(after, upto),
                entries
            }),
        (ids(), prop::collection::vec(any::<u64>(), KEY_BUCKETS))
            .prop_map(|(origin, buckets)| Message::KeyBuckets { origin, buckets }),
        (
            ids(),
            any::<u16>(),
            prop::option::of(keys()),
            prop::option::of(keys()),
            prop::collection::vec(key(), 0..15)
        )
            .prop_map(|(origin, mask, after, upto, entries)| {
                Message::Keys { origin, mask, range: Range { after, upto }, entries }
            }),
        (ids(), prop::collection::vec(keys(), 0..20))
            .prop_map(|(origin, keys)| Message::Want { origin, keys }),
        prop::collection::vec(ids(), 0..50).prop_map(Message::WantRumours),
        prop::collection::vec(announcement, 0..10).prop_map(Message::Announce),
        Just(Message::Lazy),
        (ids(), prop::collection::vec(keys(), 0..10))
            .prop_map(|(origin, keys)| Message::Graft { origin, keys }),
    ]
}

proptest! {
    #[test]
    fn messages_round_trip(message in messages()) {
        let bytes = message.emit();
        prop_assert_eq!(Message::parse(&bytes), Ok(message));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..1200), variant in 0..19u8) {
        let _ = Message::parse(&bytes);
        let _ = Message::parse(&[&[gossip::codec::VERSION, variant], &bytes[..]].concat());
    }

    #[test]
    fn changed_bytes_never_panic(message in messages(), at: prop::sample::Index, to: u8) {
        let mut bytes = message.emit();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = Message::parse(&bytes);
    }
}

#[test]
fn the_longest_record_fits_a_message() {
    let record = Record {
        origin: PeerId([255; 16]),
        key: RecordKey::new(Kind(255), vec![255; MAX_NAME]),
        version: u64::MAX,
        value: Some(vec![255; MAX_VALUE]),
        signature: [255; 64],
    };
    assert!(Message::Push(vec![record]).emit().len() <= MAX_MESSAGE);
}

#[test]
fn wrong_counts_are_refused() {
    let few = Message::DigestReply { buckets: vec![0; ORIGIN_BUCKETS - 1] };
    assert!(Message::parse(&few.emit()).is_err());
    let many = Message::KeyBuckets { origin: PeerId([0; 16]), buckets: vec![0; KEY_BUCKETS + 1] };
    assert!(Message::parse(&many.emit()).is_err());
}
