//! What name servers answered, and what is made of it; pure.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::base::host::HostName;

/// Addresses used of one answer; further ones are left out.
pub const ADDRESSES_MAX: usize = 1024;

/// Of one name, each family in the order of the answer, none twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Vec<IpAddr>,
    pub v6: Vec<IpAddr>,
}

impl Addresses {
    /// IPv4 first.
    pub fn all(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.v4.iter().chain(&self.v6).copied().take(ADDRESSES_MAX)
    }

    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// What came of one question for the addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// At least one, and how long they may be believed.
    Addresses(Vec<IpAddr>, Duration),
    /// The name has none of this family, or is not known at all; in words.
    Nothing(String),
    /// Nobody can say; in words.
    Failed(String),
}

/// What is known after both families were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// `None` = nothing new: what was known before still holds.
    pub addresses: Option<Addresses>,
    /// How long they may be believed.
    pub ttl: Option<Duration>,
    /// What went wrong, even where there are addresses.
    pub error: Option<String>,
}

/// Puts the answers of both families together. A family that failed keeps what was known of it,
/// so that one lost packet takes no backend away; a name without any address keeps everything.
pub fn merge(last: Option<&Addresses>, v4: Heard, v6: Heard) -> Merged {
    let none = Addresses::default();
    let last = last.unwrap_or(&none);
    let mut ttls = Vec::new();
    let mut errors: Vec<String> = Vec::new();
    let mut nothing: Vec<String> = Vec::new();
    let mut family = |heard: Heard, last: &[IpAddr]| match heard {
        Heard::Addresses(list, ttl) => {
            ttls.push(ttl);
            list
        }
        Heard::Nothing(why) => {
            nothing.push(why);
            Vec::new()
        }
        Heard::Failed(why) => {
            errors.push(why);
            last.to_vec()
        }
    };
    let addresses = Addresses {
        v4: family(v4, &last.v4),
        v6: family(v6, &last.v6),
    };
    let ttl = ttls.into_iter().min();
    if ttl.is_none() {
        errors.append(&mut nothing);
    }
    errors.dedup();
    Merged {
        addresses: ttl.map(|_| addresses),
        ttl,
        error: (!errors.is_empty()).then(|| errors.join("; ")),
    }
}

/// The addresses that a backend can be at, each once, at most [`ADDRESSES_MAX`], in their order.
/// Filters answer with 0.0.0.0 for names they block; a connect to it would reach this machine.
pub fn usable(list: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut seen = HashSet::new();
    list.map(|ip| ip.to_canonical())
        .filter(|ip| !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast(ip))
        .filter(|ip| seen.insert(*ip))
        .take(ADDRESSES_MAX)
        .collect()
}

fn is_broadcast(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

/// Where the one backend sits that stands for a whole name: where it sits already, while that is
/// among the addresses, else at the first.
pub fn seat(current: Option<IpAddr>, addresses: &Addresses) -> Option<IpAddr> {
    current
        .filter(|current| addresses.all().any(|ip| ip == *current))
        .or_else(|| addresses.all().next())
}

/// One record of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub host: HostName,
    pub port: u16,
    pub priority: u16,
    /// As the record has it.
    pub weight: u16,
}

/// One address of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub host: HostName,
    pub address: SocketAddr,
    pub priority: u16,
    pub weight: u16,
}

/// Puts the targets of a service and their addresses together, by priority and address, so that
/// the order of an answer says nothing. `addresses` gives what was heard of a target; one of
/// which nobody can say anything keeps the addresses it had.
pub fn places(
    targets: &[Target],
    last: &[Place],
    mut addresses: impl FnMut(&HostName) -> Option<Vec<IpAddr>>,
) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for target in targets {
        let list = addresses(&target.host).unwrap_or_else(|| {
            let known = last.iter().filter(|place| place.host == target.host);
            usable(known.map(|place| place.address.ip()))
        });
        places.extend(list.into_iter().map(|ip| Place {
            host: target.host.clone(),
            address: SocketAddr::new(ip, target.port),
            priority: target.priority,
            weight: weight(target.weight),
        }));
    }
    places.sort_by_key(|place| (place.priority, place.address));
    let mut seen = HashSet::new();
    places.retain(|place| seen.insert(place.address));
    places.truncate(ADDRESSES_MAX);
    places
}

/// Weight 0 is "a very small chance" among others and no preference among its like (RFC 2782);
/// here 0 would be no chance at all.
fn weight(of_record: u16) -> u16 {
    of_record.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn heard(list: &[&str], seconds: u64) -> Heard {
        Heard::Addresses(ips(list), Duration::from_secs(seconds))
    }

    fn nothing() -> Heard {
        Heard::Nothing("NXDOMAIN".to_owned())
    }

    fn failed() -> Heard {
        Heard::Failed("SERVFAIL".to_owned())
    }

    fn known() -> Addresses {
        Addresses {
            v4: ips(&["10.0.0.1"]),
            v6: ips(&["fd00::1"]),
        }
    }

    #[test]
    fn a_name_of_both_families_has_the_addresses_of_both_until_the_first_is_over() {
        let merged = merge(None, heard(&["10.0.0.1"], 30), heard(&["fd00::1"], 5));
        assert_eq!(merged.addresses, Some(known()));
        assert_eq!(merged.ttl, Some(Duration::from_secs(5)));
        assert_eq!(merged.error, None);
    }

    #[test]
    fn a_family_that_failed_keeps_its_addresses_and_one_without_any_loses_them() {
        let merged = merge(Some(&known()), heard(&["10.0.0.9"], 30), failed());
        let expected = Addresses {
            v4: ips(&["10.0.0.9"]),
            v6: ips(&["fd00::1"]),
        };
        assert_eq!(merged.addresses, Some(expected));
        assert_eq!(merged.error.as_deref(), Some("SERVFAIL"));

        let merged = merge(Some(&known()), nothing(), heard(&["fd00::2"], 30));
        let expected = Addresses {
            v4: vec![],
            v6: ips(&["fd00::2"]),
        };
        assert_eq!(merged.addresses, Some(expected));
        assert_eq!(merged.error, None);
    }

    #[test]
    fn no_answer_at_all_says_nothing_new() {
        for (v4, v6, error) in [
            (nothing(), nothing(), "NXDOMAIN"),
            (failed(), failed(), "SERVFAIL"),
            (failed(), nothing(), "SERVFAIL; NXDOMAIN"),
            (nothing(), failed(), "SERVFAIL; NXDOMAIN"),
        ] {
            for last in [None, Some(known())] {
                let merged = merge(last.as_ref(), v4.clone(), v6.clone());
                assert_eq!(merged.addresses, None, "what was known stays");
                assert_eq!(merged.ttl, None);
                assert_eq!(merged.error.as_deref(), Some(error));
            }
        }
    }

    #[test]
    fn addresses_that_are_no_place_are_left_out() {
        let list = ips(&[
            "0.0.0.0",
            "10.0.0.1",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "::ffff:10.0.0.1",
            "ff02::1",
            "fd00::1",
        ]);
        assert_eq!(usable(list.into_iter()), ips(&["10.0.0.1", "fd00::1"]));
        let many = (0..5000_u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes()));
        assert_eq!(usable(many).len(), ADDRESSES_MAX);
    }

    #[test]
    fn one_backend_stays_where_it_is_while_it_may() {
        let addresses = Addresses {
            v4: ips(&["10.0.0.1", "10.0.0.2"]),
            v6: ips(&["fd00::1"]),
        };
        for (current, expected) in [
            (None, "10.0.0.1"),
            (Some("10.0.0.2"), "10.0.0.2"),
            (Some("fd00::1"), "fd00::1"),
            (Some("10.0.0.3"), "10.0.0.1"),
        ] {
            let current = current.map(|text| text.parse().unwrap());
            assert_eq!(seat(current, &addresses), Some(expected.parse().unwrap()));
        }
        assert_eq!(seat(None, &Addresses::default()), None);
    }

    fn target(host: &str, port: u16, priority: u16, weight: u16) -> Target {
        Target {
            host: HostName::parse(host).unwrap(),
            port,
            priority,
            weight,
        }
    }

    #[test]
    fn a_service_has_each_address_of_each_target_with_port_priority_and_weight_of_the_record() {
        let targets = [
            target("b", 82, 20, 7),
            target("a", 81, 10, 0),
            target("c", 83, 10, 5),
            target("a", 81, 30, 9),
        ];
        let last = [Place {
            host: HostName::parse("c").unwrap(),
            address: "10.0.0.4:9".parse().unwrap(),
            priority: 1,
            weight: 1,
        }];
        let found = places(&targets, &last, |host| match host.as_str() {
            "a" => Some(ips(&["10.0.0.2", "10.0.0.1"])),
            "b" => Some(ips(&["10.0.0.3"])),
            _ => None,
        });
        let found: Vec<_> = found
            .iter()
            .map(|place| (place.address.to_string(), place.priority, place.weight))
            .collect();
        let expected = [
            ("10.0.0.1:81", 10, 1),
            ("10.0.0.2:81", 10, 1),
            ("10.0.0.4:83", 10, 5),
            ("10.0.0.3:82", 20, 7),
        ];
        let expected = expected.map(|(address, a, b)| (address.to_owned(), a, b));
        assert_eq!(found, expected, "c keeps the address it had");
    }

    fn any_heard() -> impl Strategy<Value = Heard> {
        let list = proptest::collection::vec(any::<IpAddr>(), 1..5);
        prop_oneof![
            (list, 0..1000_u64)
                .prop_map(|(list, ttl)| Heard::Addresses(list, Duration::from_secs(ttl))),
            Just(nothing()),
            Just(failed()),
        ]
    }

    proptest! {
        #[test]
        fn no_two_answers_empty_what_was_known(v4 in any_heard(), v6 in any_heard()) {
            let merged = merge(Some(&known()), v4, v6);
            if let Some(addresses) = &merged.addresses {
                prop_assert!(!addresses.is_empty());
            } else {
                prop_assert!(merged.error.is_some());
            }
            prop_assert_eq!(merged.addresses.is_some(), merged.ttl.is_some());
        }
    }
}
