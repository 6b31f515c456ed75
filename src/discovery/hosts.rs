//! The hosts file: names that this machine knows without asking (hosts(5)); pure.

use std::net::IpAddr;

use super::addresses::{Addresses, usable};
use crate::base::host::HostName;

/// The addresses that the file's text has for a name; `None` when it does not have the name.
pub fn find(text: &str, host: &HostName) -> Option<Addresses> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let ip: IpAddr = words.next()?.parse().ok()?;
        let bare = |word: &str| word.strip_suffix('.').unwrap_or(word).to_owned();
        words
            .any(|word| bare(word).eq_ignore_ascii_case(host.bare()))
            .then_some(ip)
    });
    let (v4, v6) = usable(lines).into_iter().partition(IpAddr::is_ipv4);
    let addresses = Addresses { v4, v6 };
    (!addresses.is_empty()).then_some(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# static\n127.0.0.1 localhost\n::1 localhost ip6-localhost # both\n\
                        10.0.0.7\tDB.internal db\n10.0.0.8 db.internal.\nnonsense db\n10.0.0.9 #db\n";

    #[test]
    fn a_name_has_the_addresses_of_all_its_lines() {
        for (name, expected) in [
            ("localhost", "127.0.0.1 ::1"),
            ("db.internal", "10.0.0.7 10.0.0.8"),
            ("db.internal.", "10.0.0.7 10.0.0.8"),
            ("db", "10.0.0.7"),
            ("ip6-localhost", "::1"),
            ("internal", ""),
        ] {
            let found = find(TEXT, &HostName::parse(name).unwrap());
            let list = found.iter().flat_map(Addresses::all);
            let list: Vec<String> = list.map(|ip| ip.to_string()).collect();
            assert_eq!(list.join(" "), expected, "{name}");
        }
    }
}
