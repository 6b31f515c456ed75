//! What a misspelt word was probably meant to be.

use crate::config::keys::{BACKEND_FILE, Kind, ROOT, Section, Shape};

/// More names are not listed in a hint.
const NAMES_MAX: usize = 12;

/// The candidate that a slip of the fingers turns into `word`.
pub(crate) fn nearest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let slips_max = word.chars().count() / 3;
    let distance = |candidate: &str| strsim::damerau_levenshtein(word, candidate);
    let near = candidates
        .into_iter()
        .map(|candidate| (distance(candidate), candidate));
    let nearest = near
        .filter(|(slips, _)| *slips <= slips_max)
        .min_by_key(|(slips, _)| *slips);
    nearest.map(|(_, candidate)| candidate)
}

/// What to say of an unknown key: where it belongs, what was meant, or which keys there are.
pub(crate) fn for_key(section: &Section, name: &str) -> String {
    let of_root = ROOT.all().into_iter().any(|one| std::ptr::eq(one, section));
    let root = if of_root { &ROOT } else { &BACKEND_FILE };
    let elsewhere: Vec<String> = root
        .all()
        .into_iter()
        .filter_map(|other| home(other, name))
        .collect();
    if !elsewhere.is_empty() {
        let once = elsewhere.join(" or ").replace(" or belongs in", " or");
        return format!("`{name}` {once}");
    }
    let dashes_undone = name.replace('-', "_").to_ascii_lowercase();
    if let Some(meant) = other_word(&dashes_undone).filter(|meant| section.key(meant).is_some()) {
        return format!("lbd calls it `{meant}`");
    }
    let known = section.keys.iter().map(|key| key.name);
    if let Some(meant) = nearest(&dashes_undone, known) {
        return format!("did you mean `{meant}`?");
    }
    let known = section
        .keys
        .iter()
        .filter(|key| key.is_supported())
        .map(|key| key.name);
    format!("known keys: {}", known.collect::<Vec<_>>().join(", "))
}

/// What to say of a key of this name if the section has it.
fn home(section: &Section, name: &str) -> Option<String> {
    match section.key(name)?.kind {
        Kind::NotYet => None,
        Kind::Section(inner) if !matches!(inner.shape, Shape::Inline | Shape::InlineArray) => {
            Some(format!("is written {}", inner.header()))
        }
        _ if section.shape == Shape::Root => Some("stands before the first header".to_owned()),
        _ => Some(format!("belongs in {}", section.header())),
    }
}

/// The word of lbd for what other load balancers call differently.
fn other_word(name: &str) -> Option<&'static str> {
    let word = match name {
        "balance" | "algorithm" | "lb_policy" | "lb" | "strategy" | "method" => "policy",
        "maxconn" | "max_conn" | "max_conns" | "conn_limit" | "connection_limit" => {
            "max_connections"
        }
        "server" | "servers" | "endpoint" | "endpoints" | "target" | "targets" | "member"
        | "members" | "upstream" | "backends" | "origin" => "backend",
        "upstreams" | "cluster" | "clusters" | "group" | "default_backend" | "default_pool" => {
            "pool"
        }
        "frontend" | "frontends" | "proxy" | "service" | "server_block" => "listener",
        "listen" | "port" | "addr" => "bind",
        "addr_port" | "url" | "uri" | "ip" => "address",
        "check" | "healthcheck" | "health_check" | "health_checks" => "health",
        "threads" | "nbthread" | "worker_processes" | "concurrency" => "workers",
        "backup" | "tier" => "priority",
        "type" | "kind" => "probe",
        "timeout_connect" | "dial_timeout" => "connect_timeout",
        "outlier_detection" | "max_fails" => "ejection",
        "shutdown_timeout" | "grace" | "graceful_timeout" | "hard_stop_after" => "drain_timeout",
        "file" | "path" | "output" => "access",
        "ssl" | "ssl_context" | "proxy_ssl" => "tls",
        "crt" | "certificate" | "cert_file" | "ssl_certificate" => "cert",
        "key_file" | "private_key" | "ssl_certificate_key" => "key",
        "ca_file" | "cafile" => "ca",
        "sni_hosts" | "server_names" | "names" | "hosts" => "sni",
        _ => return None,
    };
    Some(word)
}

/// "a, b and 7 more".
pub(crate) fn listed<'n>(names: impl ExactSizeIterator<Item = &'n str>) -> String {
    let more = names.len().saturating_sub(NAMES_MAX);
    let list = names.take(NAMES_MAX).collect::<Vec<_>>().join(", ");
    if more == 0 {
        list
    } else {
        format!("{list} and {more} more")
    }
}

/// "\"a\", \"b\"".
pub(crate) fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("{word:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::{BACKEND, GLOBAL, LISTENER, POOL};

    #[test]
    fn an_unknown_key_is_answered_with_what_was_probably_meant() {
        let cases = [
            (
                &GLOBAL,
                "name",
                "`name` belongs in [[listener]] or [[pool]] or [[pool.backend]] or [[pool.discover]]",
            ),
            (&POOL, "polcy", "did you mean `policy`?"),
            (&POOL, "connect-timeout", "did you mean `connect_timeout`?"),
            (&POOL, "Policy", "did you mean `policy`?"),
            (&POOL, "balance", "lbd calls it `policy`"),
            (
                &LISTENER,
                "connect_timeout",
                "`connect_timeout` belongs in [[pool]]",
            ),
            (&ROOT, "workers", "`workers` belongs in [global]"),
            (&ROOT, "backend", "`backend` is written [[pool.backend]]"),
            (&POOL, "base", "`base` belongs in ejection = { … }"),
            (
                &BACKEND,
                "colour",
                "known keys: name, address, weight, priority, max_connections, cost",
            ),
        ];
        for (section, name, hint) in cases {
            assert_eq!(for_key(section, name), hint, "{name}");
        }
    }

    #[test]
    fn far_words_are_not_suggested() {
        assert_eq!(nearest("web", ["api", "database"]), None);
        assert_eq!(nearest("wbe", ["api", "web"]), Some("web"));
    }
}
