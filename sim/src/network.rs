//! The underlay between the hosts: how late, how often, how damaged and whether a datagram arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::dice::Dice;

/// Every router's UDP port.
pub const PORT: u16 = 6783;
/// Time that a datagram takes between neighbours in a rack.
const NEAREST: Duration = Duration::from_micros(150);
/// Time that it takes across the world of the simulation.
const FARTHEST: Duration = Duration::from_millis(80);
/// Chance in a thousand that a datagram is held up by a queue, and for how long at most.
const HELD_UP: u32 = 10;
const HELD_UP_MOST: Duration = Duration::from_millis(20);
/// Payload that every link takes: 1,280 bytes of IPv6 less its headers.
pub const SMALLEST_MTU: usize = 1232;
/// Datagrams lost, in a thousand, with which nobody may be taken for dead.
const CALM_LOSS: u32 = 50;
/// Payload that an ordinary link takes.
const ORDINARY_MTU: usize = 1472;

/// How bad the network is everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// Datagrams lost, in a thousand.
    pub loss: u32,
    /// Datagrams that arrive twice, in a thousand.
    pub duplication: u32,
    /// Datagrams of which a byte is changed, in a thousand.
    pub corruption: u32,
    /// Datagrams that come late and so out of order, in a thousand.
    pub reordering: u32,
    /// How late those come at most.
    pub late: Duration,
    /// Longest payload that passes.
    pub mtu: usize,
}

impl Weather {
    /// Nothing goes wrong.
    pub const FAIR: Weather = Weather {
        loss: 0,
        duplication: 0,
        corruption: 0,
        reordering: 0,
        late: Duration::ZERO,
        mtu: ORDINARY_MTU,
    };

    /// Whether it hides nobody from others.
    pub fn is_calm(&self) -> bool {
        self.loss <= CALM_LOSS && self.corruption == 0 && self.mtu >= SMALLEST_MTU
    }
}

/// One way between two hosts that is not like the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Nothing passes.
    Cut,
    /// It opens and closes with this period.
    Flapping(Duration),
}

/// Where a host is.
#[derive(Debug, Clone)]
struct Place {
    x: u64,
    y: u64,
    /// What the host believes that its address is.
    own: SocketAddr,
    /// What all others see: of the NAT box in front of it, if there is one.
    seen: SocketAddr,
    side: u8,
}

/// A datagram that will arrive.
#[derive(Debug)]
pub struct Parcel {
    /// After this time.
    pub delay: Duration,
    /// At which host.
    pub to: u16,
    /// From where, as the receiver sees it.
    pub from: SocketAddr,
    /// What.
    pub bytes: Vec<u8>,
}

/// See the top of the file.
#[derive(Debug)]
pub struct Network {
    dice: Dice,
    places: Vec<Place>,
    by_address: BTreeMap<SocketAddr, u16>,
    ways: BTreeMap<(u16, u16), Way>,
    mute: BTreeSet<u16>,
    /// The weather everywhere.
    pub weather: Weather,
    moves: u32,
}

impl Network {
    /// A network without hosts.
    pub fn new(seed: u64) -> Network {
        Network {
            dice: Dice::new(seed, 1),
            places: Vec::new(),
            by_address: BTreeMap::new(),
            ways: BTreeMap::new(),
            mute: BTreeSet::new(),
            weather: Weather::FAIR,
            moves: 0,
        }
    }

    /// Puts the next host somewhere, behind a NAT box of its own or not. Answers its address as it sees it.
    pub fn add(&mut self, nat: Nat) -> SocketAddr {
        let number = self.places.len() as u16;
        let seen = SocketAddr::from((public_ip(u32::from(number)), PORT));
        let own = match nat {
            Nat::None => seen,
            Nat::Box => SocketAddr::from((Ipv4Addr::new(192, 168, 1, 2), PORT)),
        };
        let (x, y) = (self.dice.below(1000), self.dice.below(1000));
        self.places.push(Place { x, y, own, seen, side: 0 });
        self.by_address.insert(seen, number);
        own
    }

    /// Where others reach a host.
    pub fn address(&self, host: u16) -> SocketAddr {
        self.places[usize::from(host)].seen
    }

    /// What a host believes that its address is.
    pub fn own_address(&self, host: u16) -> SocketAddr {
        self.places[usize::from(host)].own
    }

    /// A host gets another address; behind a NAT box only others notice.
    pub fn move_host(&mut self, host: u16) {
        self.moves += 1;
        let fresh = SocketAddr::from((public_ip(0x00ff_0000 + self.moves), PORT));
        let place = &mut self.places[usize::from(host)];
        self.by_address.remove(&place.seen);
        if place.own == place.seen {
            place.own = fresh;
        }
        place.seen = fresh;
        self.by_address.insert(fresh, host);
    }

    /// Puts hosts on the sides of a partition; all others are on side 0.
    pub fn set_side(&mut self, host: u16, side: u8) {
        self.places[usize::from(host)].side = side;
    }

    /// Which side a host is on.
    pub fn side(&self, host: u16) -> u8 {
        self.places[usize::from(host)].side
    }

    /// Changes one way between two hosts; `None` makes it ordinary again.
    pub fn set_way(&mut self, from: u16, to: u16, way: Option<Way>) {
        match way {
            Some(way) => drop(self.ways.insert((from, to), way)),
            None => drop(self.ways.remove(&(from, to))),
        }
    }

    /// Nothing that a host sends leaves it any more, or it does again.
    pub fn set_mute(&mut self, host: u16, voice: Voice) {
        match voice {
            Voice::Mute => drop(self.mute.insert(host)),
            Voice::Heard => drop(self.mute.remove(&host)),
        }
    }

    /// Ends everything that is wrong with the network, apart from NAT boxes.
    pub fn heal(&mut self) {
        self.ways.clear();
        self.mute.clear();
        self.weather = Weather::FAIR;
        self.places.iter_mut().for_each(|place| place.side = 0);
    }

    /// Whether a datagram could pass now.
    pub fn is_open(&self, from: u16, to: u16, now: Duration) -> bool {
        let open = match self.ways.get(&(from, to)) {
            None => true,
            Some(Way::Cut) => false,
            Some(Way::Flapping(period)) => {
                now.as_micros() / period.as_micros().max(1) % 2 == u128::from((from ^ to) & 1)
            }
        };
        open && self.side(from) == self.side(to) && !self.mute.contains(&from)
    }

    /// Sends a datagram of a host; hands over what will arrive of it.
    pub fn send(
        &mut self,
        from: u16,
        to: SocketAddr,
        bytes: Vec<u8>,
        now: Duration,
        mut arrive: impl FnMut(Parcel),
    ) {
        let Some(&to) = self.by_address.get(&to) else { return };
        let weather = self.weather;
        if !self.is_open(from, to, now) || bytes.len() > weather.mtu {
            return;
        }
        if self.dice.happens(weather.loss) {
            return;
        }
        let second = self.dice.happens(weather.duplication).then(|| bytes.clone());
        for mut bytes in [bytes].into_iter().chain(second) {
            if self.dice.happens(weather.corruption) && !bytes.is_empty() {
                let at = self.dice.index(bytes.len());
                bytes[at] ^= 1 << self.dice.below(8);
            }
            let delay = self.delay(from, to, weather);
            arrive(Parcel { delay, to, from: self.address(from), bytes });
        }
    }

    fn delay(&mut self, from: u16, to: u16, weather: Weather) -> Duration {
        let (a, b) = (&self.places[usize::from(from)], &self.places[usize::from(to)]);
        let distance = a.x.abs_diff(b.x).max(a.y.abs_diff(b.y)) as u32;
        let mut delay = NEAREST + FARTHEST * distance / 1000;
        delay += delay * self.dice.below(100) as u32 / 1000;
        if self.dice.happens(HELD_UP) {
            delay += self.dice.between(Duration::ZERO, HELD_UP_MOST);
        }
        if self.dice.happens(weather.reordering) {
            delay += self.dice.between(Duration::ZERO, weather.late);
        }
        delay
    }
}

/// Whether a host is behind a NAT box: others see another address than it does, and that one can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// It has a public address.
    None,
    /// It has a private one.
    Box,
}

/// Whether what a host sends leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// Nothing does.
    Mute,
    /// Everything does.
    Heard,
}

fn public_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(100, 64, 0, 1)) + number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(network: &mut Network, from: u16, to: u16, now: Duration) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        let address = network.address(to);
        network.send(from, address, vec![7; 100], now, |parcel| parcels.push(parcel));
        parcels
    }

    #[test]
    fn a_cut_is_one_way_and_a_side_is_both() {
        let mut network = Network::new(1);
        network.add(Nat::None);
        network.add(Nat::None);
        network.set_way(0, 1, Some(Way::Cut));
        assert_eq!(arrivals(&mut network, 0, 1, Duration::ZERO).len(), 0);
        assert_eq!(arrivals(&mut network, 1, 0, Duration::ZERO).len(), 1);
        network.heal();
        network.set_side(1, 1);
        assert_eq!(arrivals(&mut network, 0, 1, Duration::ZERO).len(), 0);
        assert_eq!(arrivals(&mut network, 1, 0, Duration::ZERO).len(), 0);
    }

    #[test]
    fn others_see_the_nat_box_and_its_new_address() {
        let mut network = Network::new(1);
        let own = network.add(Nat::Box);
        network.add(Nat::None);
        let before = arrivals(&mut network, 0, 1, Duration::ZERO)[0].from;
        assert_ne!(own, before);
        network.move_host(0);
        assert_ne!(arrivals(&mut network, 0, 1, Duration::ZERO)[0].from, before);
        assert_eq!(network.own_address(0), own);
        assert_eq!(arrivals(&mut network, 1, 0, Duration::ZERO).len(), 1);
    }

    #[test]
    fn a_flapping_link_opens_and_closes() {
        let mut network = Network::new(1);
        network.add(Nat::None);
        network.add(Nat::None);
        let period = Duration::from_secs(1);
        network.set_way(0, 1, Some(Way::Flapping(period)));
        let open: Vec<bool> = (0..4).map(|n| network.is_open(0, 1, n * period)).collect();
        assert_eq!(open, [false, true, false, true]);
    }
}
