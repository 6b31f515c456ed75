//! Addresses as the file writes them: `0.0.0.0:8080`, `[::]:80`, `unix:/path`, `127.0.0.1:7000-7009`.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;

use crate::base::addr::Endpoint;
use crate::base::host::HostName;
use crate::config::ledger::Wrong;
use crate::config::settings::Address;

/// Room for a path in `sockaddr_un`, less the byte that ends it (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

const BIND_EXAMPLES: &str =
    "such as \"0.0.0.0:8080\", \"[::]:8080\", \"127.0.0.1:7000-7009\" or \"unix:/run/web.sock\"";
const BACKEND_EXAMPLES: &str = "such as \"10.0.0.1:9001\", \"[2001:db8::1]:9001\", \"db.internal:5432\" or \"unix:/run/web.sock\"";

/// Places to listen on: one, or as many as a port range has. Port 0 lets the kernel choose one.
pub(crate) fn parse_bind(text: &str) -> Result<Vec<Endpoint>, Wrong> {
    if text.starts_with("systemd:") {
        return Err(Wrong::new(
            "`systemd:` sockets are not supported by this version of lbd yet",
            BIND_EXAMPLES,
        ));
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(vec![Endpoint::Unix(unix_path(path)?)]);
    }
    let (host, port) = split_port(text, "0.0.0.0:8080 or [::]:8080", BIND_EXAMPLES)?;
    let ip = parse_ip(host, port, BIND_EXAMPLES, |_| {
        Wrong::new(
            format!("{text:?} has a name where an IP address belongs"),
            format!("0.0.0.0:{port} listens on every IPv4 address, [::]:{port} on every address"),
        )
    })?;
    let ports = match port.split_once('-') {
        None => vec![parse_port(port, BIND_EXAMPLES)?],
        Some((first, last)) => {
            let (first, last) = (
                parse_port(first, BIND_EXAMPLES)?,
                parse_port(last, BIND_EXAMPLES)?,
            );
            if first > last || first == 0 {
                let what = if first == 0 {
                    "port 0 in it"
                } else {
                    "its ends swapped"
                };
                return Err(Wrong::new(
                    format!("the port range {port} has {what}"),
                    "the lower port first, such as \"127.0.0.1:7000-7009\"",
                ));
            }
            (first..=last).collect()
        }
    };
    Ok(ports
        .into_iter()
        .map(|port| Endpoint::Tcp(with_port(ip, port)))
        .collect())
}

/// A place to connect to, or the name of one.
pub(crate) fn parse_backend(text: &str) -> Result<Address, Wrong> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Address::At(Endpoint::Unix(unix_path(path)?)));
    }
    let (host, port) = split_port(text, "127.0.0.1:9001", BACKEND_EXAMPLES)?;
    let ip = if may_be_name(host) {
        None
    } else {
        let otherwise =
            |_: &str| Wrong::new(format!("{text:?} is not an address"), BACKEND_EXAMPLES);
        Some(parse_ip(host, port, BACKEND_EXAMPLES, otherwise)?)
    };
    match (parse_port(port, BACKEND_EXAMPLES)?, ip) {
        (0, _) => Err(Wrong::new(format!("{text:?} has port 0"), BACKEND_EXAMPLES)),
        (port, Some(ip)) => Ok(Address::At(Endpoint::Tcp(with_port(ip, port)))),
        (port, None) => Ok(Address::Named {
            host: parse_host(host)?,
            port,
        }),
    }
}

/// Whether somebody who wrote this meant a name, well or badly written.
fn may_be_name(host: &str) -> bool {
    host.contains(char::is_alphabetic)
        && !host.contains(|c: char| ":/[]@".contains(c) || c.is_whitespace())
}

pub(crate) fn parse_host(text: &str) -> Result<HostName, Wrong> {
    HostName::parse(text).map_err(|what| {
        let hint = if text.is_ascii() {
            "labels of 1 to 63 letters, digits and `-`, joined by dots, such as \"db.internal\""
        } else {
            "write the ASCII form of the name, such as \"xn--bcher-kva.example\""
        };
        Wrong::new(format!("the host name {text:?} {what}"), hint)
    })
}

/// A name server: its port may be left out.
pub(crate) fn parse_resolver(text: &str) -> Result<SocketAddr, Wrong> {
    const DNS_PORT: u16 = 53;
    let examples = "such as \"10.0.0.2\", \"10.0.0.2:53\" or \"[2001:db8::2]:53\"";
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, DNS_PORT));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        Ok(_) => Err(Wrong::new(format!("{text:?} has port 0"), examples)),
        Err(_) => Err(Wrong::new(
            format!("{text:?} is not the address of a name server"),
            format!("an IP address, {examples}"),
        )),
    }
}

/// Host and port; `complete` is what to write instead of a port alone.
fn split_port<'t>(
    text: &'t str,
    complete: &str,
    examples: &str,
) -> Result<(&'t str, &'t str), Wrong> {
    if text.parse::<IpAddr>().is_ok() || (text.starts_with('[') && text.ends_with(']')) {
        let hint = match text.rsplit_once(':') {
            Some((host, port)) if !text.starts_with('[') => {
                // Without brackets the last part may have been meant as the port.
                let split = host.parse::<IpAddr>().ok().and(port.parse::<u16>().ok());
                let split = split.map(|_| format!("\"[{host}]:{port}\" or "));
                format!("such as {}\"[{text}]:8080\"", split.unwrap_or_default())
            }
            _ => format!("such as \"{text}:8080\""),
        };
        return Err(Wrong::new(format!("{text:?} has no port"), hint));
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Wrong::new(
            format!("{text:?} is a port without an address"),
            complete,
        ));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        let message = match text {
            "" => "the address is empty".to_owned(),
            _ => format!("{text:?} has no port"),
        };
        return Err(Wrong::new(message, examples));
    };
    if host.is_empty() || host == "*" {
        // The hint keeps the port that was written.
        let complete = complete.replace("8080", port).replace("9001", port);
        return Err(Wrong::new(format!("{text:?} has no IP address"), complete));
    }
    Ok((host, port))
}

/// An IPv4 address, or an IPv6 address in brackets, as a socket address with port 0.
fn parse_ip(
    host: &str,
    port: &str,
    examples: &str,
    otherwise: impl FnOnce(&str) -> Wrong,
) -> Result<SocketAddr, Wrong> {
    if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        // Through a socket address, for the sake of a scope: "[fe80::1%2]".
        return format!("[{inner}]:0")
            .parse::<SocketAddrV6>()
            .map(SocketAddr::V6)
            .map_err(|_| Wrong::new(format!("{host} is not an IPv6 address"), examples));
    }
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => Ok(SocketAddr::new(IpAddr::V4(ip), 0)),
        Ok(IpAddr::V6(ip)) => Err(Wrong::new(
            format!("the IPv6 address {ip} is not in brackets"),
            format!("\"[{ip}]:{port}\""),
        )),
        Err(_) if host.contains(':') => Err(Wrong::new(
            format!("\"{host}:{port}\" is not an address"),
            examples,
        )),
        Err(_)
            if host
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.') =>
        {
            Err(Wrong::new(
                format!("{host} is not an IPv4 address"),
                examples,
            ))
        }
        Err(_) => Err(otherwise(host)),
    }
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

fn parse_port(text: &str, examples: &str) -> Result<u16, Wrong> {
    // `parse` would take a sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| {
        let what = if digits {
            "is more than 65535"
        } else {
            "is not a number"
        };
        Wrong::new(format!("the port {text:?} {what}"), examples)
    })
}

/// Fits a socket address.
pub(crate) fn unix_path(path: &str) -> Result<PathBuf, Wrong> {
    let example = "such as \"unix:/run/web.sock\"";
    let what = if !path.starts_with('/') {
        "does not begin with `/`".to_owned()
    } else if path.contains('\0') {
        "has a zero byte".to_owned()
    } else if path.len() > UNIX_PATH_BYTES_MAX {
        format!(
            "has {} bytes, more than the {UNIX_PATH_BYTES_MAX} of a socket address",
            path.len()
        )
    } else {
        return Ok(PathBuf::from(path));
    };
    Err(Wrong::new(
        format!("the socket path {path:?} {what}"),
        example,
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bind(text: &str) -> Vec<String> {
        parse_bind(text)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn binds_are_addresses_ranges_and_paths() {
        assert_eq!(bind("0.0.0.0:8080"), ["0.0.0.0:8080"]);
        assert_eq!(bind("[::]:80"), ["[::]:80"]);
        assert_eq!(bind("127.0.0.1:0"), ["127.0.0.1:0"]);
        assert_eq!(bind("[fe80::1%2]:80"), ["[fe80::1%2]:80"]);
        assert_eq!(bind("unix:/run/a b.sock"), ["unix:/run/a b.sock"]);
        assert_eq!(bind("[::1]:7-9"), ["[::1]:7", "[::1]:8", "[::1]:9"]);
        assert_eq!(bind("127.0.0.1:65535-65535"), ["127.0.0.1:65535"]);
        assert_eq!(parse_bind("127.0.0.1:1-65535").unwrap().len(), 65_535);
    }

    #[test]
    fn what_is_not_a_bind_is_told_with_the_right_form() {
        let cases = [
            (
                ":8080",
                "\":8080\" has no IP address",
                "0.0.0.0:8080 or [::]:8080",
            ),
            (
                "*:81",
                "\"*:81\" has no IP address",
                "0.0.0.0:81 or [::]:81",
            ),
            (
                "8080",
                "\"8080\" is a port without an address",
                "0.0.0.0:8080 or [::]:8080",
            ),
            (
                "0.0.0.0",
                "\"0.0.0.0\" has no port",
                "such as \"0.0.0.0:8080\"",
            ),
            ("::1", "\"::1\" has no port", "such as \"[::1]:8080\""),
            ("[::1]", "\"[::1]\" has no port", "such as \"[::1]:8080\""),
            (
                "::1:80",
                "\"::1:80\" has no port",
                "such as \"[::1]:80\" or \"[::1:80]:8080\"",
            ),
            (
                "2001:db8:0:0:0:0:0:1:80",
                "the IPv6 address 2001:db8::1 is not in brackets",
                "\"[2001:db8::1]:80\"",
            ),
            ("1.2.3.4:", "the port \"\" is not a number", BIND_EXAMPLES),
            (
                "1.2.3.4:+80",
                "the port \"+80\" is not a number",
                BIND_EXAMPLES,
            ),
            (
                "1.2.3.4:65536",
                "the port \"65536\" is more than 65535",
                BIND_EXAMPLES,
            ),
            (
                "1.2.3.400:80",
                "1.2.3.400 is not an IPv4 address",
                BIND_EXAMPLES,
            ),
            ("[::g]:80", "[::g] is not an IPv6 address", BIND_EXAMPLES),
            ("", "the address is empty", BIND_EXAMPLES),
            ("web", "\"web\" has no port", BIND_EXAMPLES),
            (
                "localhost:80",
                "\"localhost:80\" has a name where an IP address belongs",
                "0.0.0.0:80 listens on every IPv4 address, [::]:80 on every address",
            ),
            (
                "1.2.3.4:9-7",
                "the port range 9-7 has its ends swapped",
                "the lower port first, such as \"127.0.0.1:7000-7009\"",
            ),
            (
                "1.2.3.4:0-7",
                "the port range 0-7 has port 0 in it",
                "the lower port first, such as \"127.0.0.1:7000-7009\"",
            ),
            (
                "unix:web.sock",
                "the socket path \"web.sock\" does not begin with `/`",
                "such as \"unix:/run/web.sock\"",
            ),
            (
                "systemd:web",
                "`systemd:` sockets are not supported by this version of lbd yet",
                BIND_EXAMPLES,
            ),
        ];
        for (text, message, hint) in cases {
            assert_eq!(parse_bind(text), Err(Wrong::new(message, hint)), "{text}");
        }
        let long = format!("unix:/{}", "a".repeat(107));
        let message = parse_bind(&long).unwrap_err().message;
        assert!(message.ends_with("has 108 bytes, more than the 107 of a socket address"));
    }

    #[test]
    fn backends_are_addresses_paths_and_names() {
        for text in [
            "127.0.0.1:9001",
            "[2001:db8::1]:9001",
            "unix:/run/db.sock",
            "db.internal:80",
            "localhost:80",
            "my_service:80",
            "db.internal.:80",
        ] {
            assert_eq!(parse_backend(text).unwrap().to_string(), text);
        }
        let cases = [
            ("db.internal:0", "\"db.internal:0\" has port 0"),
            (
                "db.-internal:80",
                "the host name \"db.-internal\" has the label \"-internal\", which begins or ends \
                 with `-`",
            ),
            (
                "bücher.de:80",
                "the host name \"bücher.de\" has the label \"bücher\", which has the character 'ü'",
            ),
            (
                "db..internal:80",
                "the host name \"db..internal\" has nothing between two dots (label 2)",
            ),
            ("10.0.0.300:80", "10.0.0.300 is not an IPv4 address"),
            ("db.internal", "\"db.internal\" has no port"),
            ("10.0.0.1:0", "\"10.0.0.1:0\" has port 0"),
            ("10.0.0.1:7-8", "the port \"7-8\" is not a number"),
            ("a b:80", "\"a b:80\" is not an address"),
            (":9000", "\":9000\" has no IP address"),
            (
                "http://10.0.0.1:80",
                "\"http://10.0.0.1:80\" is not an address",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(parse_backend(text).unwrap_err().message, message);
        }
    }

    #[test]
    fn name_servers_are_addresses_with_or_without_a_port() {
        for (text, expected) in [
            ("10.0.0.2", "10.0.0.2:53"),
            ("10.0.0.2:5353", "10.0.0.2:5353"),
            ("2001:db8::2", "[2001:db8::2]:53"),
            ("[2001:db8::2]:5353", "[2001:db8::2]:5353"),
        ] {
            assert_eq!(parse_resolver(text).unwrap().to_string(), expected);
        }
        for text in ["", "dns.example", "10.0.0.2:0", "10.0.0.2:x", "[::2]"] {
            assert!(parse_resolver(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in "[0-9a-f:.\\[\\]%*/ unix-]{0,20}") {
            let _ = parse_bind(&text);
            let _ = parse_backend(&text);
            let _ = parse_resolver(&text);
        }
    }
}
