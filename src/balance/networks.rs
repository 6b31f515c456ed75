//! Networks, and which of the addresses in them are allowed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network: its first address and how many leading bits it fixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

impl Network {
    /// The network of `bits` leading bits that an address is in. `None`: more bits than the
    /// address has.
    pub fn holding(ip: IpAddr, bits: u8) -> Option<Network> {
        (bits <= width(ip)).then(|| Network {
            first: first(ip, bits),
            bits,
        })
    }

    /// Its first address: all bits behind the fixed ones are zero.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    pub fn bits(&self) -> u8 {
        self.bits
    }

    fn last(&self) -> u128 {
        let free = u32::from(width(self.first) - self.bits);
        number(self.first)
            | u128::MAX
                .checked_shl(free)
                .map_or(u128::MAX, |fixed| !fixed)
    }
}

/// As the configuration has it; a single address without its bits.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits == width(self.first) {
            true => self.first.fmt(f),
            false => write!(f, "{}/{}", self.first, self.bits),
        }
    }
}

/// Bits of an address of its family.
fn width(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The address with all bits behind the first `bits` cleared.
pub(super) fn first(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let fixed = u32::MAX.checked_shl(32_u32.saturating_sub(bits.into()));
            IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & fixed.unwrap_or(0)))
        }
        IpAddr::V6(ip) => {
            let fixed = u128::MAX.checked_shl(128_u32.saturating_sub(bits.into()));
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & fixed.unwrap_or(0)))
        }
    }
}

/// What a list of allowed and a list of denied networks say of every address there is, worked out
/// once: the network with the most bits decides. A lookup halves a sorted list; it allocates
/// nothing.
#[derive(Debug)]
pub struct Networks {
    v4: Verdicts<u32>,
    v6: Verdicts<u128>,
}

impl Networks {
    /// An address in none of the networks is allowed, unless there are networks in `allow`. Of a
    /// network in both lists the denial counts; the configuration refuses such.
    pub fn new(
        allow: impl IntoIterator<Item = Network>,
        deny: impl IntoIterator<Item = Network>,
    ) -> Networks {
        let allow = allow.into_iter().map(|network| (network, true));
        let deny = deny.into_iter().map(|network| (network, false));
        let (mut v4, mut v6): (Vec<_>, Vec<_>) = allow
            .chain(deny)
            .partition(|(network, _)| network.first.is_ipv4());
        let otherwise = !v4.iter().chain(&v6).any(|(_, allowed)| *allowed);
        let (begins, changes) = changes(&mut v4, otherwise, u32::MAX.into());
        let v4 = Verdicts {
            begins,
            // The numbers are those of IPv4 addresses.
            changes: changes.into_iter().map(|at| at as u32).collect(),
        };
        let (begins, changes) = self::changes(&mut v6, otherwise, u128::MAX);
        let v6 = Verdicts {
            begins,
            changes: changes.into(),
        };
        Networks { v4, v6 }
    }

    /// An IPv6 address that an IPv4 one was mapped into is looked up as the IPv4 one.
    pub fn allows(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.at(ip.to_bits()),
            IpAddr::V6(ip) => self.v6.at(ip.to_bits()),
        }
    }
}

/// A verdict for each number: it begins as `begins` and turns at each of the sorted `changes`.
#[derive(Debug)]
struct Verdicts<N> {
    begins: bool,
    changes: Box<[N]>,
}

impl<N: Ord + Copy> Verdicts<N> {
    fn at(&self, number: N) -> bool {
        let turns = self.changes.partition_point(|change| *change <= number);
        self.begins ^ (turns % 2 == 1)
    }
}

/// The verdict of address 0, and each address with another verdict than the one before it, up to
/// `end`. Networks are nested or apart, so a stack of those still open is enough.
fn changes(networks: &mut [(Network, bool)], otherwise: bool, end: u128) -> (bool, Vec<u128>) {
    // Wider before narrower, and of the same the denial last: what comes later counts.
    networks.sort_unstable_by_key(|(network, allowed)| (network.first, network.bits, !allowed));
    let mut verdicts: Vec<(u128, bool)> = vec![(0, otherwise)];
    let mut say = |from: u128, verdict: bool| match verdicts.last_mut() {
        Some((at, last)) if *at == from => *last = verdict,
        _ => verdicts.push((from, verdict)),
    };
    let mut open: Vec<(u128, bool)> = Vec::new();
    let beginnings = networks.iter().map(|(network, _)| number(network.first));
    // One more than the last number of an address, for what is still open after the last network.
    let beginnings = beginnings.map(Some).chain([None]);
    for (at, begins) in beginnings.enumerate() {
        while let Some((last, _)) = open.pop_if(|(last, _)| begins.is_none_or(|at| *last < at)) {
            if last < end {
                say(last + 1, open.last().map_or(otherwise, |outer| outer.1));
            }
        }
        if let (Some(begins), Some((network, verdict))) = (begins, networks.get(at)) {
            say(begins, *verdict);
            open.push((network.last(), *verdict));
        }
    }
    let begins = verdicts[0].1;
    verdicts.dedup_by_key(|(_, verdict)| *verdict);
    (
        begins,
        verdicts.into_iter().skip(1).map(|one| one.0).collect(),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        let (ip, bits) = text.split_once('/').unwrap();
        Network::holding(ip.parse().unwrap(), bits.parse().unwrap()).unwrap()
    }

    fn networks(allow: &[&str], deny: &[&str]) -> Networks {
        let list = |texts: &[&str]| texts.iter().map(|text| network(text)).collect::<Vec<_>>();
        Networks::new(list(allow), list(deny))
    }

    /// The rule as it is told: of the networks that hold the address, the one with the most bits.
    fn by_the_rule(allow: &[Network], deny: &[Network], ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let narrowest = |list: &[Network]| {
            let holding = list.iter().filter(|one| {
                one.first.is_ipv4() == ip.is_ipv4()
                    && (number(one.first)..=one.last()).contains(&number(ip))
            });
            holding.map(|one| one.bits).max()
        };
        match (narrowest(allow), narrowest(deny)) {
            (None, None) => allow.is_empty(),
            (allowed, denied) => allowed > denied,
        }
    }

    #[test]
    fn the_longest_prefix_wins_whichever_list_it_is_in() {
        let networks = networks(
            &["10.0.0.0/8", "10.1.2.0/24", "10.1.2.3/32", "2001:db8::/32"],
            &["10.1.0.0/16", "10.1.2.128/25", "2001:db8:1::/48"],
        );
        let cases = [
            ("9.255.255.255", false),
            ("10.0.0.0", true),
            ("10.0.255.255", true),
            ("10.1.0.0", false),
            ("10.1.1.255", false),
            ("10.1.2.0", true),
            ("10.1.2.127", true),
            ("10.1.2.128", false),
            ("10.1.3.0", false),
            ("10.2.0.0", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("::ffff:10.0.0.1", true),
            ("::ffff:10.1.1.1", false),
            ("2001:db8::1", true),
            ("2001:db8:1::1", false),
            ("2001:db8:2::1", true),
            ("2001:db9::", false),
            ("::10.0.0.1", false),
        ];
        for (ip, allowed) in cases {
            assert_eq!(networks.allows(ip.parse().unwrap()), allowed, "{ip}");
        }
    }

    #[test]
    fn who_is_in_no_network_is_allowed_only_where_none_is_allowed_by_name() {
        let (any, other): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert!(networks(&[], &[]).allows(any));
        assert!(networks(&[], &["10.0.0.0/8"]).allows(any));
        assert!(!networks(&["10.0.0.0/8"], &[]).allows(any));
        assert!(!networks(&["10.0.0.0/8"], &[]).allows(other));
        assert!(!networks(&[], &["0.0.0.0/0"]).allows(any));
        assert!(networks(&[], &["0.0.0.0/0"]).allows(other));
        assert!(networks(&["::/0"], &["0.0.0.0/0"]).allows(other));
    }

    #[test]
    fn a_network_is_printed_as_it_is_written() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32", "::/0"] {
            assert_eq!(network(text).to_string(), text);
        }
        assert_eq!(network("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(network("10.1.2.3/32").to_string(), "10.1.2.3");
        assert_eq!(network("::1/128").to_string(), "::1");
        assert_eq!(Network::holding("10.0.0.0".parse().unwrap(), 33), None);
    }

    /// Ten thousand networks over a small part of the addresses, so that many lie within others.
    #[test]
    fn ten_thousand_networks_are_a_short_sorted_list_that_answers_by_the_rule() {
        let mut chance = crate::balance::chance::Chance::seeded(3);
        let mut any = |v4: bool| {
            let ip: IpAddr = match v4 {
                true => Ipv4Addr::from_bits(0x0a00_0000 | chance.below(1 << 20)).into(),
                false => {
                    Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(chance.next_u64() >> 40))
                        .into()
                }
            };
            let bits = if v4 {
                10 + chance.below(23)
            } else {
                100 + chance.below(29)
            };
            Network::holding(ip, bits as u8).unwrap()
        };
        let mut all: Vec<Network> = (0..10_000).map(|at| any(at % 3 > 0)).collect();
        let asked: Vec<IpAddr> = all.iter().map(Network::first).collect();
        all.sort_unstable();
        all.dedup();
        let (allow, deny): (Vec<_>, Vec<_>) = all.iter().partition(|_| chance.below(2) == 0);
        let networks = Networks::new(allow.clone(), deny.clone());
        // Each network begins and ends once: the list that is halved cannot be longer than that.
        let (v4, v6) = (networks.v4.changes.len(), networks.v6.changes.len());
        assert!(
            v4 > 100 && v6 > 100 && v4 + v6 <= 2 * all.len(),
            "{v4}, {v6}"
        );
        assert!(networks.v4.changes.is_sorted_by(|a, b| a < b));
        assert!(networks.v6.changes.is_sorted_by(|a, b| a < b));
        for ip in asked.into_iter().step_by(20) {
            assert_eq!(networks.allows(ip), by_the_rule(&allow, &deny, ip), "{ip}");
        }
    }

    /// Few different bits, so that networks meet, nest and begin where others do.
    fn any_network() -> impl Strategy<Value = Network> {
        let v4 = (
            prop::sample::select(vec![0_u32, 1, 2, 3, 128, 255, u32::MAX]),
            0..=32_u8,
        )
            .prop_map(|(low, bits)| (IpAddr::V4(Ipv4Addr::from_bits(low)), bits));
        let v6 = (
            prop::sample::select(vec![0_u128, 1, 2, 3, 128, u128::MAX]),
            0..=128_u8,
        )
            .prop_map(|(low, bits)| (IpAddr::V6(Ipv6Addr::from_bits(low)), bits));
        prop_oneof![v4, v6].prop_map(|(ip, bits)| Network::holding(ip, bits).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn every_address_is_judged_by_the_rule(
            allow in prop::collection::btree_set(any_network(), 0..8),
            deny in prop::collection::btree_set(any_network(), 0..8),
            further in prop::collection::vec(any::<IpAddr>(), 8),
        ) {
            let allow: Vec<Network> = allow.into_iter().collect();
            let deny: Vec<Network> = deny.into_iter().filter(|one| !allow.contains(one)).collect();
            let networks = Networks::new(allow.clone(), deny.clone());
            // Where each network begins and ends, and one beside that.
            let mut asked = further;
            for one in allow.iter().chain(&deny) {
                let v4 = one.first.is_ipv4();
                for number in [number(one.first), one.last()] {
                    for number in [number.wrapping_sub(1), number, number.wrapping_add(1)] {
                        asked.push(match v4 {
                            true => Ipv4Addr::from_bits(number as u32).into(),
                            false => Ipv6Addr::from_bits(number).into(),
                        });
                    }
                }
            }
            for ip in asked {
                prop_assert_eq!(networks.allows(ip), by_the_rule(&allow, &deny, ip), "{}", ip);
            }
        }
    }
}
