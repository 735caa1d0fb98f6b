//! Bytes from peers and from the disk: whatever they are, they are judged and never trusted.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use gossip::{Kind, PeerId, RecordKey};
use ipam::{
    BlockRecord, Config, FreeRecord, Ipam, JournalEntry, Owner, RemovalRecord, Standing, Ticket, Want,
};
use ipnet::Ipv4Net;
use proptest::prelude::*;

fn any_peer() -> impl Strategy<Value = PeerId> {
    prop_oneof![(0..4u8).prop_map(|n| PeerId([n; 16])), any::<[u8; 16]>().prop_map(PeerId)]
}

fn any_block() -> impl Strategy<Value = BlockRecord> {
    let near = (0..=255u32).prop_map(|low| 0x0a00_0000 | low);
    let addr = prop_oneof![near, any::<u32>()];
    (addr, 20..=32u8, any_peer(), 1..10u64).prop_map(|(addr, length, owner, epoch)| BlockRecord {
        prefix: Ipv4Net::new(Ipv4Addr::from_bits(addr), length).unwrap().trunc(),
        owner,
        epoch,
    })
}

fn any_entry() -> impl Strategy<Value = JournalEntry> {
    let addr = any::<u32>().prop_map(Ipv4Addr::from_bits);
    let standing = prop_oneof![Just(Standing::Clean), Just(Standing::Contested)];
    let holder = || ".{0,75}".prop_map(|text| text.into());
    prop_oneof![
        (any_peer(), any_block(), standing).prop_map(|(signer, record, standing)| JournalEntry::Block {
            signer,
            record,
            standing
        }),
        (addr.clone(), holder()).prop_map(|(addr, owner)| JournalEntry::Lease { addr, owner }),
        (addr.clone(), holder()).prop_map(|(addr, owner)| JournalEntry::Lost { addr, owner }),
        addr.clone().prop_map(|addr| JournalEntry::Resting { addr }),
        addr.clone().prop_map(|addr| JournalEntry::Free { addr }),
        addr.prop_map(|addr| JournalEntry::LostGone { addr }),
        (any_peer(), any_peer())
            .prop_map(|(removed, heir)| JournalEntry::Removal(RemovalRecord { removed, heir })),
        any_peer().prop_map(JournalEntry::Member),
        any_peer().prop_map(JournalEntry::HandedOver),
        any_peer().prop_map(JournalEntry::TakenOver),
        Just(JournalEntry::Distrusted),
        Just(JournalEntry::Trusted),
    ]
}

fn joined(now: Instant) -> Ipam {
    let mut ipam = Ipam::new(Config::new("10.0.0.0/24".parse().unwrap()), PeerId([1; 16]), 1, now);
    ipam.found(now);
    ipam
}

proptest! {
    #[test]
    fn records_round_trip(block in any_block(), removed in any_peer(), heir in any_peer(), free: u32) {
        prop_assert_eq!(BlockRecord::decode(&block.encode()), Ok(block));
        let removal = RemovalRecord { removed, heir };
        prop_assert_eq!(RemovalRecord::decode(&removal.encode()), Ok(removal));
        prop_assert_eq!(FreeRecord::decode(&FreeRecord { free }.encode()), Ok(FreeRecord { free }));
    }

    #[test]
    fn journal_entries_round_trip_and_are_small(entry in any_entry()) {
        let bytes = entry.encode();
        prop_assert!(bytes.len() <= ipam::journal::MAX_ENTRY);
        prop_assert_eq!(JournalEntry::decode(&bytes), Ok(entry));
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>, tag in 0..12u8, kind in 0..8u8, peer in any_peer()) {
        let now = Instant::now();
        let mut ipam = joined(now);
        for _ in 0..2 {
            let _ = BlockRecord::decode(&bytes);
            let _ = RemovalRecord::decode(&bytes);
            let _ = FreeRecord::decode(&bytes);
            let _ = JournalEntry::decode(&bytes);
            let key = RecordKey { kind: Kind(kind), name: bytes.iter().copied().take(5).collect() };
            let _ = ipam.handle_record(peer, &key, Some(&bytes), now);
            let _ = ipam.handle_message(peer, &bytes, now);
            bytes.splice(0..0, [gossip::codec::VERSION, tag]);
        }
    }

    /// Whatever peers claim, one who is told so keeps its promises and its books.
    #[test]
    fn well_formed_nonsense_never_panics(
        claims in prop::collection::vec((any_peer(), any_block()), 0..20),
        removals in prop::collection::vec((any_peer(), any_peer()), 0..4),
    ) {
        let mut now = Instant::now();
        let mut ipam = joined(now);
        for (n, (signer, record)) in claims.iter().enumerate() {
            now += Duration::from_secs(3);
            ipam.handle_record(*signer, &record.key(), Some(&record.encode()), now).unwrap();
            if let Some((removed, heir)) = removals.get(n) {
                ipam.handle_removal(RemovalRecord { removed: *removed, heir: *heir }, now);
            }
            ipam.allocate(Ticket(n as u64), Owner(n.to_string()), Want::Any, now, now);
            ipam.handle_timeout(now);
            prop_assert!(ipam.poll_answer().is_some());
            let summary = ipam.summary();
            let sum: u64 = summary.peers.iter().map(|space| space.addresses).sum();
            prop_assert_eq!(sum + summary.unknown, 256);
        }
    }

    #[test]
    fn any_journal_can_be_restored(entries in prop::collection::vec(any_entry(), 0..30)) {
        let now = Instant::now();
        let mut ipam = Ipam::new(Config::new("10.0.0.0/24".parse().unwrap()), PeerId([1; 16]), 1, now);
        for entry in entries {
            // Entries of another range are refused; the rest goes on.
            let _ = ipam.restore(entry);
        }
        ipam.restored(now);
        let mut again = Ipam::new(ipam.config().clone(), ipam.me(), 1, now);
        for entry in ipam.snapshot() {
            again.restore(entry).unwrap();
        }
        again.restored(now);
        prop_assert_eq!(again.own_blocks(), ipam.own_blocks());
        prop_assert_eq!(again.leases().collect::<Vec<_>>(), ipam.leases().collect::<Vec<_>>());
    }
}
