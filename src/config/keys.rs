//! The table of every key a file may hold: what it defaults to, and whether this version of lbd has it yet.

/// A table of the file and the keys it may hold.
#[derive(Debug)]
pub(crate) struct Section {
    /// Dotted, as in a header; empty for the top level.
    pub(crate) path: &'static str,
    pub(crate) shape: Shape,
    pub(crate) keys: &'static [Key],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The top level.
    Root,
    /// `[log]`
    Table,
    /// `[[pool]]`
    Array,
    /// `ejection = { … }`
    Inline,
    /// `steps = [{ … }, …]`
    InlineArray,
}

#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// Must be there; with an example of its value, as TOML.
    Required(&'static str),
    /// May be left out and then has no fixed value; with an example of its value, as TOML.
    Optional(&'static str),
    /// Has a string, with this default.
    Text(&'static str),
    /// Has an integer, with this default.
    Number(u32),
    /// Has a boolean, with this default.
    Flag(bool),
    /// Has an array of strings, by default an empty one.
    List,
    /// Has a number with or without a fraction, with this default, as TOML.
    Decimal(&'static str),
    Section(&'static Section),
    /// Known, but not built yet.
    NotYet,
}

pub(crate) static ROOT: Section = Section {
    path: "",
    shape: Shape::Root,
    keys: &[
        optional("include", "[\"conf.d/*.toml\"]"),
        section("global", &GLOBAL),
        section("log", &LOG),
        section("admin", &ADMIN),
        section("listener", &LISTENER),
        section("pool", &POOL),
        not_yet("ai"),
    ],
};

pub(crate) static GLOBAL: Section = Section {
    path: "global",
    shape: Shape::Table,
    keys: &[
        text("workers", "auto"),
        number("max_connections", 100_000),
        text("drain_timeout", "30s"),
        text("hash_seed", ""),
        list("resolvers"),
    ],
};

pub(crate) static LOG: Section = Section {
    path: "log",
    shape: Shape::Table,
    keys: &[
        text("level", "info"),
        text("format", "text"),
        text("access", "stdout"),
    ],
};

pub(crate) static ADMIN: Section = Section {
    path: "admin",
    shape: Shape::Table,
    keys: &[
        text("bind", "127.0.0.1:9900"),
        text("socket", "/run/lbd/admin.sock"),
        text("token_file", ""),
    ],
};

pub(crate) static LISTENER: Section = Section {
    path: "listener",
    shape: Shape::Array,
    keys: &[
        required("name", "\"web\""),
        required("bind", "\"0.0.0.0:8080\""),
        text("mode", "tcp"),
        optional("pool", "\"web\""),
        number("max_connections", 0),
        text("idle_timeout", "10m"),
        text("half_close_timeout", "1h"),
        text("max_lifetime", "0s"),
        list("allow"),
        list("deny"),
        text("allow_file", ""),
        text("deny_file", ""),
        section("per_source", &PER_SOURCE),
        section("accept_proxy", &ACCEPT_PROXY),
        section("tls", &LISTENER_TLS),
        section("route", &ROUTE),
        not_yet("kernel"),
    ],
};

pub(crate) static ACCEPT_PROXY: Section = Section {
    path: "listener.accept_proxy",
    shape: Shape::Inline,
    keys: &[required("from", "[\"10.0.0.0/8\"]"), text("timeout", "2s")],
};

pub(crate) static LISTENER_TLS: Section = Section {
    path: "listener.tls",
    shape: Shape::Table,
    keys: &[
        text("mode", "terminate"),
        section("certificates", &CERTIFICATES),
        text("min_version", "1.2"),
        list("alpn"),
        section("client_auth", &CLIENT_AUTH),
        text("handshake_timeout", "10s"),
    ],
};

pub(crate) static CERTIFICATES: Section = Section {
    path: "listener.tls.certificates",
    shape: Shape::InlineArray,
    keys: &[required("cert", "\"a.pem\""), required("key", "\"a.key\"")],
};

pub(crate) static CLIENT_AUTH: Section = Section {
    path: "listener.tls.client_auth",
    shape: Shape::Inline,
    keys: &[
        required("ca", "\"clients.pem\""),
        text("mode", "required"),
        text("crl", ""),
    ],
};

pub(crate) static ROUTE: Section = Section {
    path: "listener.route",
    shape: Shape::Array,
    keys: &[
        list("sni"),
        list("alpn"),
        list("source"),
        required("pool", "\"web\""),
    ],
};

pub(crate) static PER_SOURCE: Section = Section {
    path: "listener.per_source",
    shape: Shape::Inline,
    keys: &[
        number("connections", 0),
        text("rate", ""),
        number("burst", 0),
        number("v4_prefix", 32),
        number("v6_prefix", 64),
    ],
};

pub(crate) static POOL: Section = Section {
    path: "pool",
    shape: Shape::Array,
    keys: &[
        required("name", "\"web\""),
        text("policy", "round_robin"),
        text("hash_key", "source_ip"),
        text("connect_timeout", "2s"),
        number("retries", 2),
        number("retry_budget", 50),
        number("max_connections", 0),
        number("hash_balance_factor", 125),
        text("slow_start", "0s"),
        number("panic_threshold", 0),
        section("queue", &QUEUE),
        section("drain", &DRAIN),
        number("rebalance", 0),
        section("ejection", &EJECTION),
        section("health", &HEALTH),
        section("backend", &BACKEND),
        section("discover", &DISCOVER),
        text("send_proxy", "off"),
        section("tls", &POOL_TLS),
    ],
};

pub(crate) static POOL_TLS: Section = Section {
    path: "pool.tls",
    shape: Shape::Inline,
    keys: &[
        text("server_name", ""),
        text("ca", ""),
        text("cert", ""),
        text("key", ""),
        flag("insecure", false),
    ],
};

pub(crate) static EJECTION: Section = Section {
    path: "pool.ejection",
    shape: Shape::Inline,
    keys: &[
        number("connect_failures", 3),
        text("base", "5s"),
        text("max", "60s"),
        number("max_percent", 50),
        number("early_resets", 0),
        text("early_reset_within", "1s"),
        number("empty_closes", 0),
    ],
};

pub(crate) static QUEUE: Section = Section {
    path: "pool.queue",
    shape: Shape::Inline,
    keys: &[
        number("length", 1024),
        text("timeout", "5s"),
        text("on_half_close", "leave"),
    ],
};

pub(crate) static DRAIN: Section = Section {
    path: "pool.drain",
    shape: Shape::Inline,
    keys: &[text("deadline", "5m"), text("on_down", "keep")],
};

pub(crate) static HEALTH: Section = Section {
    path: "pool.health",
    shape: Shape::Table,
    keys: &[
        text("probe", "tcp"),
        text("interval", "2s"),
        text("timeout", "1s"),
        number("rise", 2),
        number("fall", 3),
        text("fast_interval", "500ms"),
        text("down_interval", "2s"),
        number("port", 0),
        text("path", "/"),
        text("host", ""),
        text("expect_status", "200-399"),
        text("expect_body", ""),
        text("probe_address", ""),
        text("send_proxy", "off"),
        section("tls", &HEALTH_TLS),
        text("send", ""),
        text("expect", ""),
        section("steps", &STEPS),
        list("command"),
        number("flap_changes", 6),
        text("flap_window", "60s"),
        number("agent_port", 0),
        text("agent_interval", "2s"),
        text("agent_send", ""),
    ],
};

pub(crate) static HEALTH_TLS: Section = Section {
    path: "pool.health.tls",
    shape: Shape::Inline,
    keys: &[
        text("server_name", ""),
        text("ca", ""),
        flag("insecure", false),
    ],
};

pub(crate) static STEPS: Section = Section {
    path: "pool.health.steps",
    shape: Shape::InlineArray,
    keys: &[text("send", ""), text("expect", "")],
};

pub(crate) static BACKEND: Section = Section {
    path: "pool.backend",
    shape: Shape::Array,
    keys: &BACKEND_KEYS,
};

const BACKEND_KEYS: [Key; 6] = [
    optional("name", "\"a\""),
    required("address", "\"127.0.0.1:9001\""),
    number("weight", 1),
    number("priority", 0),
    number("max_connections", 0),
    decimal("cost", "0.0"),
];

pub(crate) static DISCOVER: Section = Section {
    path: "pool.discover",
    shape: Shape::Array,
    keys: &[
        required("kind", "\"dns\""),
        optional("name", "\"web.internal\""),
        optional("port", "8080"),
        number("weight", 1),
        number("priority", 0),
        number("max_connections", 0),
        text("min_ttl", "1s"),
        text("max_ttl", "5m"),
        optional("path", "\"backends.toml\""),
        flag("allow_empty", false),
    ],
};

/// The top level of a file that `kind = "file"` names.
pub(crate) static BACKEND_FILE: Section = Section {
    path: "",
    shape: Shape::Root,
    keys: &[section("backend", &FILE_BACKEND)],
};

static FILE_BACKEND: Section = Section {
    path: "backend",
    shape: Shape::Array,
    keys: &BACKEND_KEYS,
};

const fn required(name: &'static str, example: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Required(example),
    }
}

const fn optional(name: &'static str, example: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Optional(example),
    }
}

const fn text(name: &'static str, default: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Text(default),
    }
}

const fn number(name: &'static str, default: u32) -> Key {
    Key {
        name,
        kind: Kind::Number(default),
    }
}

const fn flag(name: &'static str, default: bool) -> Key {
    Key {
        name,
        kind: Kind::Flag(default),
    }
}

const fn list(name: &'static str) -> Key {
    Key {
        name,
        kind: Kind::List,
    }
}

const fn decimal(name: &'static str, default: &'static str) -> Key {
    Key {
        name,
        kind: Kind::Decimal(default),
    }
}

const fn section(name: &'static str, section: &'static Section) -> Key {
    Key {
        name,
        kind: Kind::Section(section),
    }
}

const fn not_yet(name: &'static str) -> Key {
    Key {
        name,
        kind: Kind::NotYet,
    }
}

impl Section {
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// How the section is opened in a file.
    pub(crate) fn header(&self) -> String {
        match self.shape {
            Shape::Root => "the top level".to_owned(),
            Shape::Table => format!("[{}]", self.path),
            Shape::Array => format!("[[{}]]", self.path),
            Shape::Inline => format!("{} = {{ … }}", self.own_name()),
            Shape::InlineArray => format!("{} = [{{ … }}]", self.own_name()),
        }
    }

    fn own_name(&self) -> &'static str {
        self.path
            .rsplit_once('.')
            .map_or(self.path, |(_, name)| name)
    }

    /// The section and all within it.
    pub(crate) fn all(&'static self) -> Vec<&'static Section> {
        let mut list = vec![self];
        for key in self.keys {
            if let Kind::Section(inner) = key.kind {
                list.extend(inner.all());
            }
        }
        list
    }
}

impl Key {
    pub(crate) fn is_supported(&self) -> bool {
        !matches!(self.kind, Kind::NotYet)
    }

    /// `key = value` with the default, or with an example where there is no default.
    pub(crate) fn example(&self) -> String {
        match self.kind {
            Kind::Required(example) | Kind::Optional(example) => {
                format!("{} = {example}", self.name)
            }
            Kind::Text(default) => format!("{} = {default:?}", self.name),
            Kind::Number(default) => format!("{} = {default}", self.name),
            Kind::Flag(default) => format!("{} = {default}", self.name),
            Kind::List => format!("{} = []", self.name),
            Kind::Decimal(default) => format!("{} = {default}", self.name),
            Kind::Section(section) => section.header(),
            Kind::NotYet => self.name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = include_str!("../../conf/lb.toml");

    /// The lines of `conf/lb.toml` between the first header of the section and the next header.
    fn documented_lines(section: &Section) -> Vec<&'static str> {
        let lines = DOCUMENTED.lines().skip_while(|line| {
            let bare = line.strip_prefix('#').unwrap_or(line);
            section.shape != Shape::Root
                && bare.split('#').next().unwrap().trim() != section.header()
        });
        let skipped = usize::from(section.shape != Shape::Root);
        lines
            .skip(skipped)
            .take_while(|line| !line.starts_with('[') && !line.starts_with("#["))
            .collect()
    }

    /// Each as `key = default  # what it is`, so that the file can be read instead of a manual.
    /// What cannot stand in a runnable file stands behind a `#`.
    #[test]
    fn each_supported_key_has_its_line_in_the_documented_file() {
        for section in ROOT
            .all()
            .into_iter()
            .filter(|section| !matches!(section.shape, Shape::Inline | Shape::InlineArray))
        {
            for key in section.keys.iter().filter(|key| key.is_supported()) {
                let expected = match key.kind {
                    Kind::Section(inner) if inner.shape == Shape::Inline => inline(key.name, inner),
                    Kind::Section(inner) if inner.shape == Shape::InlineArray => {
                        inline_array(key.name, inner)
                    }
                    Kind::Section(inner) => {
                        let found = DOCUMENTED
                            .lines()
                            .any(|line| line.trim_start_matches('#').starts_with(&inner.header()));
                        assert!(found, "{} is not in conf/lb.toml", inner.header());
                        continue;
                    }
                    Kind::Required(_) | Kind::Optional(_) => format!("{} = ", key.name),
                    Kind::Text(_)
                    | Kind::Number(_)
                    | Kind::Decimal(_)
                    | Kind::Flag(_)
                    | Kind::List
                    | Kind::NotYet => key.example(),
                };
                let line = documented_lines(section)
                    .into_iter()
                    .find(|line| line.trim_start_matches(['#', ' ']).starts_with(&expected));
                let header = section.header();
                let line = line.unwrap_or_else(|| panic!("{header} lacks the line `{expected}`"));
                let comment = line.trim_start_matches('#').rsplit_once('#');
                assert!(comment.is_some(), "`{line}` of {header} has no comment");
            }
        }
    }

    /// Empty, where that says anything.
    fn inline_array(name: &str, section: &Section) -> String {
        let is_required = |key: &Key| matches!(key.kind, Kind::Required(_));
        match section.keys.iter().any(is_required) {
            true => inline(name, section)
                .replace("{ ", "[{ ")
                .replace(" }", " }]"),
            false => format!("{name} = []"),
        }
    }

    fn inline(name: &str, section: &Section) -> String {
        let keys: Vec<String> = section.keys.iter().map(Key::example).collect();
        format!("{name} = {{ {} }}", keys.join(", "))
    }
}
