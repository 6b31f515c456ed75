//! Reads what concerns TLS and the PROXY protocol: of listeners, of pools and of probes.

use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;

use crate::config::certificates::{self, PairFile};
use crate::config::check_admission;
use crate::config::ledger::{Place, Wrong};
use crate::config::reader::{Found, Reader};
use crate::config::settings::{
    AcceptProxy, ClientAuth, Identity, ListenerTls, SendProxy, Terminate, TlsVerify, TlsVersion,
    UpstreamTls,
};

/// Shorter waits refuse everybody.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// The length of a name stands in one byte (RFC 7301, section 3.1).
const ALPN_BYTES_MAX: usize = 255;

const SEND_PROXY: [(&str, SendProxy); 3] = [
    ("off", SendProxy::Off),
    ("v1", SendProxy::V1),
    ("v2", SendProxy::V2),
];

pub(crate) fn send_proxy(table: &Reader<'_>) -> SendProxy {
    table.choice("send_proxy", &SEND_PROXY, &[])
}

pub(crate) fn accept_proxy(listener: &Reader<'_>) -> Option<AcceptProxy> {
    if !listener.has("accept_proxy") {
        return None;
    }
    let table = listener.table("accept_proxy");
    let from = table.required_strings("from", "an array of networks in quotes");
    let from = check_admission::networks(&table, from);
    Some(AcceptProxy {
        from: from.into_iter().map(|one| one.value).collect(),
        timeout: table.duration("timeout", TIMEOUT_MIN),
    })
}

/// `[listener.tls]`, when it is there.
pub(crate) fn listener_tls(listener: &Reader<'_>) -> Option<ListenerTls> {
    if !listener.has("tls") {
        return None;
    }
    let table = listener.table("tls");
    let modes = [("terminate", false), ("passthrough", true)];
    let passthrough = table.choice("mode", &modes, &[]);
    // All are read whatever the mode, for the mistakes in them.
    let handshake_timeout = table.duration("handshake_timeout", TIMEOUT_MIN);
    let terminate = Terminate {
        certificates: pairs(&table),
        min_version: table.choice(
            "min_version",
            &[("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)],
            &[],
        ),
        alpn: protocols(&table),
        client_auth: client_auth(&table),
        handshake_timeout,
    };
    if passthrough {
        note_keys_of_terminate(&table);
        return Some(ListenerTls::Passthrough { handshake_timeout });
    }
    if table.is_default("certificates") {
        let wrong = Wrong::new(
            format!("{} has no `certificates`", table.label()),
            "add a line such as certificates = [{ cert = \"a.pem\", key = \"a.key\" }], or mode = \
             \"passthrough\"",
        );
        match table.has("certificates") {
            true => table.note(&table.place_of_value("certificates"), wrong),
            false => table.ledger().note_absence(table.place(), wrong),
        }
    }
    Some(ListenerTls::Terminate(Box::new(terminate)))
}

fn note_keys_of_terminate(table: &Reader<'_>) {
    for key in ["certificates", "min_version", "alpn", "client_auth"] {
        if !table.is_default(key) {
            let wrong = Wrong::new(
                format!("`{key}` is for mode = \"terminate\" only"),
                format!("leave `{key}` out: mode = \"passthrough\" leaves the TLS to the backend"),
            );
            table.note(&table.place_of_value(key), wrong);
        }
    }
}

fn pairs(table: &Reader<'_>) -> Vec<Identity> {
    let tables = table.tables("certificates");
    let pair = |table: &Reader<'_>| {
        let path = |key| table.required(key, "a path in quotes", |path| Ok(table.beside(path)));
        let (cert, key) = (path("cert"), path("key"));
        identity(table, &cert?, &key?)
    };
    tables.iter().filter_map(pair).collect()
}

fn identity(table: &Reader<'_>, cert: &Found<PathBuf>, key: &Found<PathBuf>) -> Option<Identity> {
    let flaws = match certificates::identity(&cert.value, &key.value) {
        Ok(identity) => return Some(identity),
        Err(flaws) => flaws,
    };
    for flaw in flaws {
        let place = match flaw.file {
            PairFile::Certificate => &cert.place,
            PairFile::Key => &key.place,
        };
        table.note(place, Wrong::new(flaw.message, flaw.hint));
    }
    None
}

/// The protocols of `alpn`.
pub(crate) fn protocols(table: &Reader<'_>) -> Vec<Vec<u8>> {
    let mut protocols = Vec::new();
    for text in table.list("alpn", "an array of protocols in quotes") {
        let what = match text.value.len() {
            0 => "is empty".to_owned(),
            long if long > ALPN_BYTES_MAX => {
                format!("has {long} bytes, more than {ALPN_BYTES_MAX}")
            }
            _ => {
                protocols.push(text.value.into_bytes());
                continue;
            }
        };
        let wrong = Wrong::new(
            format!("a protocol of `alpn` {what}"),
            "such as \"h2\" or \"http/1.1\"",
        );
        table.note(&text.place, wrong);
    }
    protocols
}

fn client_auth(tls: &Reader<'_>) -> Option<ClientAuth> {
    if !tls.has("client_auth") {
        return None;
    }
    let table = tls.table("client_auth");
    let required = table.choice("mode", &[("required", true), ("optional", false)], &[]);
    let ca = table.required("ca", "a path in quotes", |path| {
        certificates::bundle(&table.beside(path), "clients")
    });
    let ca = ca?.value;
    let crl = table.parsed("crl", "a path in quotes", |path| match path {
        "" => Ok(None),
        path => certificates::revocations(&table.beside(path), &ca).map(Some),
    });
    Some(ClientAuth { ca, required, crl })
}

/// `tls = { … }` of a pool, when it is there.
pub(crate) fn upstream_tls(pool: &Reader<'_>) -> Option<UpstreamTls> {
    if !pool.has("tls") {
        return None;
    }
    let table = pool.table("tls");
    let verify = verify(&table, None);
    let identity = client_pair(&table);
    if !verify.insecure && table.is_default("ca") {
        note_trust_in_nobody(&table, &pool.place_of_value("tls"));
    }
    Some(UpstreamTls { verify, identity })
}

fn client_pair(table: &Reader<'_>) -> Option<Identity> {
    let path = |key: &str| {
        let value = table.parsed(key, "a path in quotes", |path| {
            Ok((!path.is_empty()).then(|| table.beside(path)))
        });
        let place = table.place_of_value(key);
        value.map(|value| Found { value, place })
    };
    let (cert, key) = (path("cert"), path("key"));
    for (one, there, other) in [("cert", &cert, "key"), ("key", &key, "cert")] {
        if let Some(found) = there.as_ref().filter(|_| table.is_default(other)) {
            let wrong = Wrong::new(
                format!("`{one}` needs a `{other}` in {}", table.label()),
                "a certificate is shown to backends with its key; leave both out to show none",
            );
            table.note(&found.place, wrong);
        }
    }
    identity(table, &cert?, &key?)
}

/// `server_name`, `ca` and `insecure`; what is not written is that of `otherwise`.
pub(crate) fn verify(table: &Reader<'_>, otherwise: Option<&TlsVerify>) -> TlsVerify {
    let server_name = table.parsed("server_name", "a string", |text| {
        if text.is_empty() || ServerName::try_from(text).is_ok() {
            return Ok(text.to_owned());
        }
        Err(Wrong::new(
            format!("`server_name` is {text:?}, neither a host name nor an IP address"),
            "the name that the certificate is for, such as \"web.internal\"",
        ))
    });
    let ca = table.parsed("ca", "a path", |path| match path {
        "" => Ok(None),
        path => certificates::bundle(&table.beside(path), "backends").map(Some),
    });
    let mut verify = TlsVerify {
        server_name,
        ca,
        insecure: table.flag("insecure"),
    };
    if let Some(otherwise) = otherwise.cloned() {
        if !table.has("server_name") {
            verify.server_name = otherwise.server_name;
        }
        if !table.has("ca") {
            verify.ca = otherwise.ca;
        }
        if !table.has("insecure") {
            verify.insecure = otherwise.insecure;
        }
    }
    verify
}

/// Notes it when there is no authority by whose word a backend could be believed.
pub(crate) fn note_trust_in_nobody(table: &Reader<'_>, place: &Place) {
    if certificates::system_roots().is_empty() {
        let wrong = Wrong::new(
            "this system trusts no certificate authority",
            "install its certificates, or add tls = { ca = \"ca.pem\" }",
        );
        table.note(place, wrong);
    }
}
