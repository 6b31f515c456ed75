//! Networks as the file writes them: `10.0.0.0/8`, `2001:db8::/32`, or a single address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::balance::networks::Network;
use crate::config::ledger::{Ledger, Place, Wrong};
use crate::config::reader::Found;

const EXAMPLES: &str = "such as \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.7\"";

/// Leading bits of an IPv6 address that an IPv4 one is mapped into (RFC 4291, section 2.5.5.2).
const MAPPED_BITS: u8 = 96;

pub(crate) fn parse(text: &str) -> Result<Network, Wrong> {
    let not_one = || Wrong::new(format!("{text:?} is not a network"), EXAMPLES);
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let ip: IpAddr = address.parse().map_err(|_| not_one())?;
    let width = if ip.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => width,
        Some(bits) => parse_bits(bits, width).ok_or_else(|| {
            let hint = match (bits_of_mask(bits), ip) {
                (Some(bits), IpAddr::V4(_)) => written(ip, bits),
                _ => format!("0 to {width}, {EXAMPLES}"),
            };
            Wrong::new(
                format!("{text:?} has no number of bits behind the `/`"),
                hint,
            )
        })?,
    };
    let network = Network::holding(ip, bits).ok_or_else(not_one)?;
    if network.first() != ip {
        return Err(Wrong::new(
            format!("{text:?} has bits set behind the first {bits}"),
            format!("the network is \"{network}\", the address alone \"{ip}\""),
        ));
    }
    if let IpAddr::V6(v6) = ip
        && let Some(v4) = Ipv6Addr::to_ipv4_mapped(&v6)
        && bits >= MAPPED_BITS
    {
        return Err(Wrong::new(
            format!("{text:?} holds no client: those of IPv4 are looked up as IPv4"),
            written(v4.into(), bits - MAPPED_BITS),
        ));
    }
    Ok(network)
}

/// What to write instead: the network that an address is in.
fn written(ip: IpAddr, bits: u8) -> String {
    let network = Network::holding(ip, bits).map(|network| network.to_string());
    format!("write \"{}\"", network.unwrap_or_default())
}

fn parse_bits(text: &str, width: u8) -> Option<u8> {
    // `parse` would take a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|bits| digits && *bits <= width)
}

/// "255.255.0.0" is 16 bits.
fn bits_of_mask(text: &str) -> Option<u8> {
    let mask = text.parse::<Ipv4Addr>().ok()?.to_bits();
    (mask.leading_ones() + mask.trailing_zeros() == 32 || mask == 0)
        .then_some(mask.leading_ones() as u8)
}

/// The networks of a file: one in each line, a `#` begins a comment. What is wrong is noted at
/// its line.
pub(crate) fn parse_lines(text: &str, file: usize, ledger: &Ledger) -> Vec<Found<Network>> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let code = without_comment(line);
        let indent = line.find(code).unwrap_or_default();
        let place = Place {
            file,
            span: start + indent..start + indent + code.len(),
        };
        match parse(code) {
            _ if code.is_empty() => {}
            Ok(value) => found.push(Found { value, place }),
            Err(wrong) => ledger.note(&place, wrong),
        }
        start += line.len();
    }
    found
}

/// Whether a file has blank lines and comments only.
pub(crate) fn says_nothing(text: &str) -> bool {
    text.lines().all(|line| without_comment(line).is_empty())
}

fn without_comment(line: &str) -> &str {
    let code = line.split('#').next().unwrap_or_default();
    code.trim_start_matches('\u{feff}').trim()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn networks_and_single_addresses_are_read() {
        for text in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "192.0.2.7",
            "2001:db8::/32",
            "::/0",
            "::1",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("192.0.2.7/32"), parse("192.0.2.7"));
        assert_eq!(parse("::1/128"), parse("::1"));
    }

    #[test]
    fn what_is_not_a_network_is_told_with_the_one_that_was_meant() {
        let cases = [
            (
                "10.0.0.1/8",
                "\"10.0.0.1/8\" has bits set behind the first 8",
                "the network is \"10.0.0.0/8\", the address alone \"10.0.0.1\"",
            ),
            (
                "10.0.0.1/0",
                "\"10.0.0.1/0\" has bits set behind the first 0",
                "the network is \"0.0.0.0/0\", the address alone \"10.0.0.1\"",
            ),
            (
                "2001:db8::1/64",
                "\"2001:db8::1/64\" has bits set behind the first 64",
                "the network is \"2001:db8::/64\", the address alone \"2001:db8::1\"",
            ),
            (
                "10.0.0.0/33",
                "\"10.0.0.0/33\" has no number of bits behind the `/`",
                "0 to 32, such as \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.7\"",
            ),
            (
                "::/129",
                "\"::/129\" has no number of bits behind the `/`",
                "0 to 128, such as \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.7\"",
            ),
            (
                "10.0.0.0/",
                "\"10.0.0.0/\" has no number of bits behind the `/`",
                "0 to 32, such as \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.7\"",
            ),
            (
                "10.0.0.0/+8",
                "\"10.0.0.0/+8\" has no number of bits behind the `/`",
                "0 to 32, such as \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.7\"",
            ),
            (
                "10.1.0.0/255.255.0.0",
                "\"10.1.0.0/255.255.0.0\" has no number of bits behind the `/`",
                "write \"10.1.0.0/16\"",
            ),
            (
                "::ffff:10.0.0.0/104",
                "\"::ffff:10.0.0.0/104\" holds no client: those of IPv4 are looked up as IPv4",
                "write \"10.0.0.0/8\"",
            ),
            ("10.0.0/8", "\"10.0.0/8\" is not a network", EXAMPLES),
            ("10.0.0.1:80", "\"10.0.0.1:80\" is not a network", EXAMPLES),
            ("example.com", "\"example.com\" is not a network", EXAMPLES),
            ("", "\"\" is not a network", EXAMPLES),
            (" 10.0.0.0/8", "\" 10.0.0.0/8\" is not a network", EXAMPLES),
        ];
        for (text, message, hint) in cases {
            assert_eq!(parse(text), Err(Wrong::new(message, hint)), "{text}");
        }
    }

    #[test]
    fn a_file_has_a_network_in_each_line_and_comments() {
        let ledger = Ledger::default();
        let text = "\u{feff}10.0.0.0/8 # ours\r\n\n# none here: 1.2.3.4\n\t192.0.2.7\n   \n::1";
        let found = parse_lines(text, 3, &ledger);
        let told: Vec<_> = found
            .iter()
            .map(|one| {
                (
                    one.value.to_string(),
                    &text[one.place.span.clone()],
                    one.place.file,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("10.0.0.0/8".to_owned(), "10.0.0.0/8", 3),
                ("192.0.2.7".to_owned(), "192.0.2.7", 3),
                ("::1".to_owned(), "::1", 3),
            ]
        );
        assert!(ledger.finish(&[]).is_none());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9a-f:./+ \u{e9}]{0,24}", line in any::<String>()) {
            if let Ok(network) = parse(&text) {
                prop_assert_eq!(parse(&network.to_string()), Ok(network));
            }
            let ledger = Ledger::default();
            parse_lines(&line, 0, &ledger);
        }

        #[test]
        fn every_network_survives_being_printed(ip in any::<IpAddr>(), bits in 0..=128_u8) {
            // What a mapped address holds is refused.
            if let Some(network) = Network::holding(ip.to_canonical(), bits) {
                prop_assert_eq!(parse(&network.to_string()), Ok(network));
            }
        }
    }
}
