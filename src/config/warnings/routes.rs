//! Finds routes that no client can reach.

use std::collections::HashMap;

use crate::balance::networks::Network;
use crate::base::host::NamePattern;
use crate::config::settings::RouteRule;

/// A warning for each route whose clients all fit an earlier one. Several earlier ones may share
/// its names among them, but not its protocols or networks.
pub(super) fn shadowed(label: &str, routes: &[RouteRule]) -> Vec<String> {
    let mut seen = Seen::default();
    let mut said = Vec::new();
    for (at, route) in routes.iter().enumerate() {
        if let Some(takers) = seen.takers(routes, route) {
            let takers: Vec<String> = takers.iter().map(|taker| (taker + 1).to_string()).collect();
            let (number, takers) = (at + 1, takers.join(", "));
            said.push(format!(
                "[[listener.route]] number {number} of {label} is never taken: every client that \
                 fits it fits number {takers} before it"
            ));
        }
        seen.add(at, route);
    }
    said
}

/// The routes so far, by what they say of names. Looked up instead of compared, as there may be
/// thousands.
#[derive(Default)]
struct Seen<'r> {
    of_any_name: Vec<usize>,
    by_name: HashMap<&'r NamePattern, Vec<usize>>,
}

impl<'r> Seen<'r> {
    fn add(&mut self, at: usize, route: &'r RouteRule) {
        if route.sni.is_empty() {
            self.of_any_name.push(at);
        }
        for name in &route.sni {
            self.by_name.entry(name).or_default().push(at);
        }
    }

    /// The earlier routes that take all clients of this one; `None`: it gets some.
    fn takers(&self, routes: &[RouteRule], route: &RouteRule) -> Option<Vec<usize>> {
        let takes = |at: &&usize| {
            let earlier = &routes[**at];
            has_all(&earlier.alpn, &route.alpn, |wide, narrow| wide == narrow)
                && has_all(&earlier.source, &route.source, holds)
        };
        if let Some(taker) = self.of_any_name.iter().find(takes) {
            return Some(vec![*taker]);
        }
        let of_name = |name: &NamePattern| {
            let wider = wider(name);
            let known = wider.iter().filter_map(|wider| self.by_name.get(wider));
            known.flatten().find(takes).copied()
        };
        let takers: Option<Vec<usize>> = route.sni.iter().map(of_name).collect();
        let mut takers = takers.filter(|takers| !takers.is_empty())?;
        takers.sort_unstable();
        takers.dedup();
        Some(takers)
    }
}

/// Whether a list lets through all that the other does; an empty one lets everything through.
fn has_all<T>(wide: &[T], narrow: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    wide.is_empty()
        || !narrow.is_empty()
            && narrow
                .iter()
                .all(|narrow| wide.iter().any(|wide| covers(wide, narrow)))
}

fn holds(wide: &Network, narrow: &Network) -> bool {
    wide.bits() <= narrow.bits()
        && Network::holding(narrow.first(), wide.bits()).as_ref() == Some(wide)
}

/// The pattern itself and all that mean its names too.
fn wider(name: &NamePattern) -> Vec<NamePattern> {
    let text = match name {
        NamePattern::Exact(text) | NamePattern::Below(text) => text,
    };
    let dots = text.match_indices('.');
    let parents = dots.map(|(dot, _)| NamePattern::Below(text[dot + 1..].to_owned()));
    std::iter::once(name.clone()).chain(parents).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(sni: &[&str], alpn: &[&str], source: &[&str]) -> RouteRule {
        let network = |text: &&str| {
            let (ip, bits) = text.split_once('/').unwrap();
            Network::holding(ip.parse().unwrap(), bits.parse().unwrap()).unwrap()
        };
        RouteRule {
            sni: sni
                .iter()
                .map(|name| NamePattern::parse(name).unwrap())
                .collect(),
            alpn: alpn.iter().map(|one| one.as_bytes().to_vec()).collect(),
            source: source.iter().map(network).collect(),
            pool: 0,
        }
    }

    /// Which are never taken, counted from 1.
    fn numbers(routes: &[RouteRule]) -> Vec<usize> {
        let number = |line: String| {
            let rest = line.strip_prefix("[[listener.route]] number ").unwrap();
            rest.split(' ').next().unwrap().parse().unwrap()
        };
        shadowed("x", routes).into_iter().map(number).collect()
    }

    #[test]
    fn a_route_is_shadowed_by_a_wider_one_before_it_only() {
        let narrow = || route(&["a.b.example.org"], &["h2"], &["10.1.0.0/16"]);
        for (wider, shadows) in [
            (narrow(), true),
            (route(&["*.example.org"], &[], &[]), true),
            (
                route(
                    &["x.org", "*.b.example.org"],
                    &["h2", "h3"],
                    &["10.0.0.0/8"],
                ),
                true,
            ),
            (route(&[], &["h2"], &[]), true),
            (route(&[], &[], &["9.0.0.0/8", "10.0.0.0/15"]), true),
            (route(&["b.example.org"], &[], &[]), false),
            (route(&["*.a.b.example.org"], &[], &[]), false),
            (route(&["*.example.org"], &["h3"], &[]), false),
            (route(&["*.example.org"], &[], &["10.1.0.0/17"]), false),
            (route(&[], &[], &["10.2.0.0/16"]), false),
        ] {
            let expected = if shadows { vec![2] } else { vec![] };
            assert_eq!(numbers(&[wider.clone(), narrow()]), expected, "{wider:?}");
            // The other way round something is left, but for equal ones.
            let is_equal = wider == narrow();
            assert_eq!(numbers(&[narrow(), wider]).is_empty(), !is_equal);
        }
    }

    #[test]
    fn several_routes_may_share_the_names_of_one() {
        let earlier = [route(&["a.org"], &[], &[]), route(&["*.b.org"], &[], &[])];
        let [first, second] = earlier;
        let routes = [
            first.clone(),
            second.clone(),
            route(&["a.org", "x.b.org", "*.y.b.org"], &[], &[]),
            route(&["a.org", "b.org"], &[], &[]),
        ];
        assert_eq!(
            shadowed("[[listener]] \"in\"", &routes),
            [
                "[[listener.route]] number 3 of [[listener]] \"in\" is never taken: every client \
                 that fits it fits number 1, 2 before it"
            ]
        );
        assert_eq!(
            numbers(&[first, route(&[], &["h2"], &[])]),
            [] as [usize; 0]
        );
    }

    fn any_route() -> impl Strategy<Value = RouteRule> {
        let some =
            |of: &'static [&'static str]| prop::collection::vec(prop::sample::select(of), 0..3);
        (
            some(&["a.org", "b.a.org", "*.a.org", "*.org", "*.b.a.org"]),
            some(&["h2", "h3"]),
            some(&["10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "0.0.0.0/0"]),
        )
            .prop_map(|(sni, alpn, source)| route(&sni, &alpn, &source))
    }

    proptest! {
        /// Every client of a small world is sent through the routes by the rule.
        #[test]
        fn no_client_ever_takes_a_route_that_is_said_to_be_shadowed(
            routes in prop::collection::vec(any_route(), 1..6),
        ) {
            let never = numbers(&routes);
            let names = [None, Some("a.org"), Some("b.a.org"), Some("c.b.a.org"), Some("c.a.org"), Some("c.org")];
            for name in names {
                for offers in [&[][..], &["h2"], &["h3"], &["h2", "h3"]] {
                    for ip in ["10.1.0.0", "10.200.0.0", "11.0.0.0"] {
                        let ip = ip.parse().unwrap();
                        let fits = |route: &RouteRule| {
                            let named = |sni: &NamePattern| name.is_some_and(|name| sni.matches(name));
                            let offered = |one: &Vec<u8>| offers.iter().any(|offer| offer.as_bytes() == one);
                            let from = |one: &Network| Network::holding(ip, one.bits()) == Some(*one);
                            (route.sni.is_empty() || route.sni.iter().any(named))
                                && (route.alpn.is_empty() || route.alpn.iter().any(offered))
                                && (route.source.is_empty() || route.source.iter().any(from))
                        };
                        if let Some(at) = routes.iter().position(fits) {
                            prop_assert!(!never.contains(&(at + 1)), "{routes:?}");
                        }
                    }
                }
            }
        }
    }
}
