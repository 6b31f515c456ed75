//! TLS, routes and the PROXY protocol in a configuration: what is accepted, how each mistake and
//! each doubt is told; certificates are made for each test.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lbd::balance::key::HashKey;
use lbd::base::host::NamePattern;
use lbd::base::wall::Stamp;
use lbd::config::certificates::{Flaw, PairFile, identity};
use lbd::config::load::load;
use lbd::config::print::print_effective;
use lbd::config::settings::*;
use lbd::config::warnings::warnings;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa,
    KeyIdMethod, KeyPair, PublicKeyData, SerialNumber,
};
use rustls::SignatureAlgorithm;
use tempfile::TempDir;
use x509_parser::asn1_rs::{FromDer, OctetString, Sequence};

use super::config::{any_duration, any_network, any_tls};

/// A folder with certificates and a configuration beside them.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Readable by its owner only, as keys are to be.
    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
        self.set_mode(name, 0o600);
    }

    fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    /// `NAME.pem` and `NAME.key`, signed by itself.
    fn pair(&self, name: &str, params: CertificateParams) -> KeyPair {
        let key = KeyPair::generate().unwrap();
        self.write(
            &format!("{name}.pem"),
            params.self_signed(&key).unwrap().pem(),
        );
        self.write(&format!("{name}.key"), key.serialize_pem());
        key
    }

    /// The pair `NAME.pem` and `NAME.key`; where it is not one, the folder's name is cut out of
    /// what is told.
    fn identity(&self, name: &str) -> Result<Identity, Vec<Flaw>> {
        let (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
        identity(&self.path(&cert), &self.path(&key)).map_err(|mut flaws| {
            for flaw in &mut flaws {
                flaw.message = self.bare(&flaw.message);
                flaw.hint = self.bare(&flaw.hint);
            }
            flaws
        })
    }

    fn bare(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.0.path().display()), "")
    }

    fn load(&self, text: &str) -> Result<Settings, Vec<String>> {
        self.write("lb.toml", text);
        load(&self.path("lb.toml"), &|_| None).map_err(|mistakes| {
            let told = mistakes.into_iter().map(|mistake| {
                let hint = mistake.hint.as_deref().unwrap_or("-");
                let (line, column, message) = (mistake.line, mistake.column, &mistake.message);
                self.bare(&format!("{line}:{column} {message} | {hint}"))
            });
            told.collect()
        })
    }

    fn settings(&self, text: &str) -> Settings {
        self.load(text)
            .unwrap_or_else(|told| panic!("{told:#?}\n{text}"))
    }
}

fn names(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    CertificateParams::new(names).unwrap()
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = names(&[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
    params.distinguished_name = Default::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn revocations(by: &CertifiedIssuer<'_, KeyPair>, next_update: SystemTime) -> String {
    let params = CertificateRevocationListParams {
        this_update: (SystemTime::UNIX_EPOCH + DAY).into(),
        next_update: next_update.into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(by).unwrap().pem().unwrap()
}

const DAY: Duration = Duration::from_secs(86_400);

fn date(at: SystemTime) -> String {
    let mut stamp = Stamp::new();
    String::from_utf8_lossy(&stamp.render(at)[..10]).into_owned()
}

/// `a` and `b` for a.org and below b.org, `ca.pem` and `crl.pem` of one authority.
fn furnished() -> Folder {
    let folder = Folder::new();
    folder.pair("a", names(&["a.org"]));
    folder.pair("b", names(&["b.org", "*.b.org"]));
    let ca = authority("ours");
    folder.write("ca.pem", ca.pem());
    let next_update = SystemTime::now() + 30 * DAY;
    folder.write("crl.pem", revocations(&ca, next_update));
    folder
}

/// A configuration with further lines, those of the listener from line 5 on.
fn with(listener: &str, pool: &str) -> String {
    let listener = format!("[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:8080\"\n{listener}\n");
    let pool = format!("[[pool]]\nname = \"out\"\n{pool}\n");
    format!("{listener}\n{pool}\n[[pool.backend]]\naddress = \"127.0.0.1:9001\"\n")
}

const TERMINATE: &str = "[listener.tls]\ncertificates = [{ cert = \"a.pem\", key = \"a.key\" }]";
const PASSTHROUGH: &str = "[listener.tls]\nmode = \"passthrough\"";

#[test]
fn every_key_is_read_and_paths_are_relative_to_the_file() {
    let folder = furnished();
    let settings = folder.settings(
        r#"
        [[listener]]
        name = "in"
        bind = "127.0.0.1:8443"
        accept_proxy = { from = ["10.0.0.0/8", "::1"], timeout = "500ms" }
        [listener.tls]
        mode = "terminate"
        certificates = [{ cert = "a.pem", key = "a.key" }, { cert = "b.pem", key = "b.key" }]
        min_version = "1.3"
        alpn = ["h2", "http/1.1"]
        client_auth = { ca = "ca.pem", mode = "optional", crl = "crl.pem" }
        handshake_timeout = "3s"
        [[listener.route]]
        sni = ["API.example.com.", "*.example.org"]
        alpn = ["h2"]
        source = ["192.0.2.0/24"]
        pool = "api"
        [[listener]]
        name = "through"
        bind = "127.0.0.1:8444"
        pool = "api"
        tls = { mode = "passthrough" }
        [[pool]]
        name = "web"
        send_proxy = "v2"
        tls = { server_name = "web.internal", ca = "ca.pem", cert = "b.pem", key = "b.key" }
        [pool.health]
        probe = "tls"
        [[pool.backend]]
        address = "unix:/run/web"
        [[pool]]
        name = "api"
        hash_key = "sni"
        [[pool.backend]]
        address = "127.0.0.1:9001"
        "#,
    );
    let [listener, through] = settings.listeners.as_slice() else {
        panic!("two listeners")
    };
    let accept = listener.accept_proxy.as_ref().unwrap();
    let from: Vec<String> = accept.from.iter().map(ToString::to_string).collect();
    assert_eq!(from, ["10.0.0.0/8", "::1"]);
    assert_eq!(accept.timeout, Duration::from_millis(500));
    let Some(ListenerTls::Terminate(tls)) = &listener.tls else {
        panic!("it terminates")
    };
    let [a, b] = tls.certificates.as_slice() else {
        panic!("two certificates")
    };
    let exact = |name: &str| NamePattern::parse(name).unwrap();
    assert_eq!(a.names, [exact("a.org")]);
    assert_eq!(b.names, [exact("b.org"), exact("*.b.org")]);
    assert_eq!(
        (&a.cert, &a.key),
        (&folder.path("a.pem"), &folder.path("a.key"))
    );
    assert!(a.not_before < SystemTime::now() && SystemTime::now() < a.not_after);
    assert_eq!(tls.min_version, TlsVersion::V13);
    assert_eq!(tls.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert_eq!(tls.handshake_timeout, Duration::from_secs(3));
    let auth = tls.client_auth.as_ref().unwrap();
    assert_eq!((auth.ca.certificates.len(), auth.required), (1, false));
    assert_eq!(auth.crl.as_ref().unwrap().lists.len(), 1);
    assert_eq!(listener.pool, None);
    let [route] = listener.routes.as_slice() else {
        panic!("one route")
    };
    assert_eq!(
        route.sni,
        [exact("api.example.com"), exact("*.example.org")]
    );
    assert_eq!(
        (route.alpn.len(), route.source.len(), route.pool),
        (1, 1, 1)
    );
    let handshake_timeout = Duration::from_secs(10);
    assert_eq!(
        through.tls,
        Some(ListenerTls::Passthrough { handshake_timeout })
    );

    let web = &settings.pools[0];
    let upstream = web.tls.as_ref().unwrap();
    assert_eq!(upstream.verify.server_name, "web.internal");
    assert_eq!(upstream.identity.as_ref(), Some(b));
    assert_eq!(web.send_proxy, SendProxy::V2);
    assert_eq!(settings.pools[1].hash_key, HashKey::Sni);
    assert_eq!(warnings(&settings), [] as [&str; 0]);
    assert_eq!(folder.load(&print_effective(&settings)), Ok(settings));
}

#[test]
fn a_listener_that_terminates_has_the_documented_defaults() {
    let folder = furnished();
    let settings = folder.settings(&with(&format!("pool = \"out\"\n{TERMINATE}"), ""));
    let Some(ListenerTls::Terminate(tls)) = &settings.listeners[0].tls else {
        panic!("it terminates")
    };
    assert_eq!(tls.min_version, TlsVersion::V12);
    assert_eq!((tls.alpn.len(), &tls.client_auth), (0, &None));
    assert_eq!(tls.handshake_timeout, Duration::from_secs(10));
}

#[test]
fn a_probe_goes_the_way_of_its_pool_where_it_is_not_told_otherwise() {
    let folder = furnished();
    let pool =
        "send_proxy = \"v1\"\ntls = { server_name = \"w\", ca = \"ca.pem\", insecure = true }";
    let health = |lines: &str| {
        let text = with("pool = \"out\"", &format!("{pool}\n[pool.health]\n{lines}"));
        let health = folder.settings(&text).pools.remove(0).health;
        let tls = health.probe.tls().cloned();
        let tls = tls.map(|tls| (tls.server_name, tls.ca.is_some(), tls.insecure));
        (health.send_proxy, tls)
    };
    let inherited = Some(("w".to_owned(), true, true));
    assert_eq!(health(""), (SendProxy::V1, None));
    assert_eq!(
        health("probe = \"tls\""),
        (SendProxy::V1, inherited.clone())
    );
    assert_eq!(health("probe = \"https\"").1, inherited);
    let own =
        "probe = \"tls\"\ntls = { server_name = \"x\", insecure = false }\nsend_proxy = \"off\"";
    assert_eq!(
        health(own),
        (SendProxy::Off, Some(("x".to_owned(), true, false)))
    );
    // Elsewhere, nobody asks for the header.
    assert_eq!(health("port = 81").0, SendProxy::Off);
    assert_eq!(health("probe_address = \"10.0.0.1\"").0, SendProxy::Off);
    assert_eq!(health("port = 81\nsend_proxy = \"v2\"").0, SendProxy::V2);
    assert_eq!(health("probe = \"none\"").0, SendProxy::Off);
}

/// Lines of the listener, lines of the pool, and what is told; the listener's begin at line 4, the
/// pool's three lines after them.
const MISTAKES: &[(&str, &str, &[&str])] = &[
    // PROXY protocol
    (
        "pool = \"out\"\naccept_proxy = {}",
        "",
        &[
            "5:16 accept_proxy = { … } of [[listener]] \"in\" has no `from` | add a line such as from = [\"10.0.0.0/8\"]",
        ],
    ),
    (
        "pool = \"out\"\naccept_proxy = { from = [] }",
        "",
        &["5:25 `from` is an empty array | for example from = [\"10.0.0.0/8\"]"],
    ),
    (
        "pool = \"out\"\naccept_proxy = { from = \"lb.internal\", timeout = \"0s\" }",
        "",
        &[
            "5:25 \"lb.internal\" is not a network | such as \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.7\"",
            "5:50 `timeout` is \"0s\", too short | at least \"1ms\"; the default is timeout = \"2s\"",
        ],
    ),
    (
        "pool = \"out\"",
        "send_proxy = \"v3\"",
        &["8:14 `send_proxy` cannot be \"v3\" | allowed: \"off\", \"v1\", \"v2\""],
    ),
    // TLS of a listener
    (
        "pool = \"out\"\n[listener.tls]",
        "",
        &[
            "5:1 [listener.tls] of [[listener]] \"in\" has no `certificates` | add a line such as certificates = [{ cert = \"a.pem\", key = \"a.key\" }], or mode = \"passthrough\"",
        ],
    ),
    (
        "pool = \"out\"\n[listener.tls]\ncertificates = []",
        "",
        &[
            "6:16 [listener.tls] of [[listener]] \"in\" has no `certificates` | add a line such as certificates = [{ cert = \"a.pem\", key = \"a.key\" }], or mode = \"passthrough\"",
        ],
    ),
    (
        "pool = \"out\"\n[listener.tls]\ncertificates = [{ cert = \"a.pem\" }]",
        "",
        &[
            "6:17 certificates = [{ … }] of [listener.tls] of [[listener]] \"in\" has no `key` | add a line such as key = \"a.key\"",
        ],
    ),
    (
        "pool = \"out\"\n[listener.tls]\ncertificates = [{ cert = \"a.pem\", key = \"b.key\" }]",
        "",
        &[
            "6:41 the key in \"b.key\" is not that of the certificate \"a.pem\" | the two files were written together, perhaps only one is new",
        ],
    ),
    (
        "pool = \"out\"\n[listener.tls]\ncertificates = [{ cert = \"a.key\", key = \"a.pem\" }]",
        "",
        &[
            "6:26 the certificate file \"a.key\" holds a key and no certificate | perhaps `cert` and `key` are swapped",
            "6:41 the key file \"a.pem\" holds a certificate and no key | perhaps `cert` and `key` are swapped",
        ],
    ),
    (
        "pool = \"out\"\n[listener.tls]\nmode = \"passthru\"\nmin_version = \"1.1\"\nhandshake_timeout = \"0s\"\nalpn = [\"h2\", \"\"]\ncertificates = [{ cert = \"a.pem\", key = \"a.key\" }]",
        "",
        &[
            "6:8 `mode` cannot be \"passthru\" | allowed: \"terminate\", \"passthrough\"",
            "7:15 `min_version` cannot be \"1.1\" | did you mean \"1.2\"? allowed: \"1.2\", \"1.3\"",
            "8:21 `handshake_timeout` is \"0s\", too short | at least \"1ms\"; the default is handshake_timeout = \"10s\"",
            "9:15 a protocol of `alpn` is empty | such as \"h2\" or \"http/1.1\"",
        ],
    ),
    (
        "pool = \"out\"\n[listener.tls]\nmode = \"passthrough\"\ncertificates = [{ cert = \"a.pem\", key = \"a.key\" }]\nmin_version = \"1.3\"\nalpn = [\"h2\"]\nclient_auth = { ca = \"ca.pem\" }",
        "",
        &[
            "7:16 `certificates` is for mode = \"terminate\" only | leave `certificates` out: mode = \"passthrough\" leaves the TLS to the backend",
            "8:15 `min_version` is for mode = \"terminate\" only | leave `min_version` out: mode = \"passthrough\" leaves the TLS to the backend",
            "9:8 `alpn` is for mode = \"terminate\" only | leave `alpn` out: mode = \"passthrough\" leaves the TLS to the backend",
            "10:15 `client_auth` is for mode = \"terminate\" only | leave `client_auth` out: mode = \"passthrough\" leaves the TLS to the backend",
        ],
    ),
    (
        "pool = \"out\"\n[listener.tls]\ncertificates = [{ cert = \"a.pem\", key = \"a.key\" }]\nclient_auth = { mode = \"require\" }",
        "",
        &[
            "7:15 client_auth = { … } of [listener.tls] of [[listener]] \"in\" has no `ca` | add a line such as ca = \"clients.pem\"",
            "7:24 `mode` cannot be \"require\" | did you mean \"required\"? allowed: \"required\", \"optional\"",
        ],
    ),
    (
        "pool = \"out\"\n[listener.tls]\ncertificates = [{ cert = \"a.pem\", key = \"a.key\" }]\nclient_auth = { ca = \"a.key\" }",
        "",
        &[
            "7:22 the CA file \"a.key\" has no certificate | a PEM file with the certificates of those who sign the clients' certificates",
        ],
    ),
    (
        "pool = \"out\"\n[listener.tls]\ncertificates = [{ cert = \"a.pem\", key = \"a.key\" }]\nclient_auth = { ca = \"ca.pem\", crl = \"ca.pem\" }",
        "",
        &[
            "7:38 the CRL file \"ca.pem\" has no list | a PEM file with the lists of those who sign the clients' certificates",
        ],
    ),
    (
        "pool = \"out\"\n[listener.tls]\ncertificates = [{ cert = \"a.pem\", key = \"a.key\" }]\nclient_auth = { ca = \"ca.pem\", crl = \"bad.crl\" }",
        "",
        &[
            "7:38 the CRL file \"bad.crl\" has an unusable list, number 1 | a PEM file with the lists of those who sign the clients' certificates",
        ],
    ),
    (
        "pool = \"out\"\nssl = {}",
        "",
        &["5:1 unknown key `ssl` in [[listener]] \"in\" | lbd calls it `tls`"],
    ),
    // Routes
    (
        "[[listener.route]]\nsource = [\"10.0.0.0/8\"]",
        "",
        &[
            "4:1 [[listener.route]] of [[listener]] \"in\" has no `pool` | add a line such as pool = \"web\"",
        ],
    ),
    (
        "route = []",
        "",
        &["1:1 [[listener]] \"in\" has no `pool` | add a line such as pool = \"web\""],
    ),
    (
        "[[listener.route]]\nsource = [\"10.0.0.0/8\"]\npool = \"owt\"",
        "",
        &["6:8 unknown pool \"owt\" in [[listener]] \"in\" | did you mean \"out\"? pools: out"],
    ),
    (
        "[[listener.route]]\npool = \"out\"\nsni = []",
        "",
        &[
            "4:1 [[listener.route]] of [[listener]] \"in\" fits every client | add `sni`, `alpn` or `source`; the pool for all others is the `pool` of [[listener]]",
        ],
    ),
    (
        "[[listener.route]]\npool = \"out\"\nsni = [\"a.org\"]\nalpn = \"h2\"",
        "",
        &[
            "6:7 `sni` is said in TLS, and the listener has no [listener.tls] | add [listener.tls], with mode = \"passthrough\" to leave the TLS to the backend; `source` needs none",
            "7:8 `alpn` is said in TLS, and the listener has no [listener.tls] | add [listener.tls], with mode = \"passthrough\" to leave the TLS to the backend; `source` needs none",
        ],
    ),
    (
        "tls = { mode = \"passthrough\" }\n[[listener.route]]\npool = \"out\"\nsni = [\"a.*.org\", \"a..b\"]\nsource = [\"10.0.0.1/8\"]",
        "",
        &[
            "7:8 the name \"a.*.org\" has a `*` that is not its whole first label | such as \"api.example.com\", or \"*.example.org\" for all names below one",
            "7:19 the name \"a..b\" has nothing between two dots (label 2) | such as \"api.example.com\", or \"*.example.org\" for all names below one",
            "8:11 \"10.0.0.1/8\" has bits set behind the first 8 | the network is \"10.0.0.0/8\", the address alone \"10.0.0.1\"",
        ],
    ),
    // TLS of a pool
    (
        "pool = \"out\"",
        "tls = { cert = \"a.pem\", ca = \"ca.pem\" }",
        &[
            "8:16 `cert` needs a `key` in tls = { … } of [[pool]] \"out\" | a certificate is shown to backends with its key; leave both out to show none",
        ],
    ),
    (
        "pool = \"out\"",
        "tls = { ca = \"ca.pem\", key = \"no.key\", cert = \"a.pem\", server_name = \"a b\" }",
        &[
            "8:30 the key file \"no.key\" cannot be read: No such file or directory (os error 2) | a PEM file with a private key",
            "8:70 `server_name` is \"a b\", neither a host name nor an IP address | the name that the certificate is for, such as \"web.internal\"",
        ],
    ),
    (
        "pool = \"out\"",
        "tls = { ca = \"ca.pem\" }\nhealth.probe = \"tls\"\n[[pool.backend]]\naddress = \"unix:/run/x\"",
        &[
            "11:11 [[pool.backend]] of [[pool]] \"out\" has no name that its certificate could be for | add tls = { server_name = \"web.internal\" } to [[pool]]",
        ],
    ),
    // Listeners and pools
    (
        "pool = \"out\"\ntls.mode = \"passthrough\"",
        "tls = { ca = \"ca.pem\" }",
        &[
            "4:8 [[listener]] \"in\" passes TLS through, and [[pool]] \"out\" has `tls`: it would be encrypted twice | leave `tls` out of [[pool]] \"out\", or set mode = \"terminate\" in [listener.tls]",
        ],
    ),
    (
        "[[listener.route]]\nsource = [\"::/0\"]\npool = \"out\"",
        "hash_key = \"sni\"",
        &[
            "6:8 [[pool]] \"out\" has hash_key = \"sni\", and [[listener]] \"in\" has no [listener.tls] to read it by | add [listener.tls], with mode = \"passthrough\" to leave the TLS to the backend, or choose hash_key = \"source_ip\"",
        ],
    ),
];

#[test]
fn each_mistake_is_told_with_its_place_and_what_would_be_right() {
    let folder = furnished();
    folder.write("bad.crl", pem("X509 CRL", b"hello"));
    let mut wrong = Vec::new();
    for (listener, pool, expected) in MISTAKES {
        let text = with(listener, pool);
        match folder.load(&text) {
            Err(told) if told == *expected => {}
            found => wrong.push(format!(
                "{text}\n  expected {expected:#?}\n  found {found:#?}"
            )),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_looks_alike_but_is_right_is_accepted() {
    let folder = furnished();
    for (listener, pool) in [
        (
            "[[listener.route]]\nsource = [\"::/0\"]\npool = \"out\"",
            "",
        ),
        (
            &*format!("pool = \"out\"\n{PASSTHROUGH}"),
            "hash_key = \"sni\"",
        ),
        (
            &*format!("pool = \"out\"\n{TERMINATE}"),
            "tls = { ca = \"ca.pem\" }",
        ),
        ("pool = \"out\"", "tls = { ca = \"ca.pem\" }"),
        (
            "pool = \"out\"",
            "tls = { insecure = true }\n[[pool.backend]]\naddress = \"unix:/run/x\"",
        ),
        // Defaults of the other mode.
        (
            "pool = \"out\"\ntls = { mode = \"passthrough\", alpn = [], min_version = \"1.2\" }",
            "",
        ),
    ] {
        let settings = folder.settings(&with(listener, pool));
        assert_eq!(folder.load(&print_effective(&settings)), Ok(settings));
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for bytes in der.chunks(3) {
        let mut group = [0; 4];
        group[1..1 + bytes.len()].copy_from_slice(bytes);
        let number = u32::from_be_bytes(group);
        for at in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= bytes.len() {
                digit as char
            } else {
                '='
            });
        }
    }
    text + &format!("\n-----END {label}-----\n")
}

/// The key within a PKCS #8 file: PKCS #1 for RSA, SEC 1 for ECDSA.
fn inner_key(key: &KeyPair) -> Vec<u8> {
    let der = key.serialize_der();
    let (_, info) = Sequence::from_der(&der).unwrap();
    // Version, three bytes, and algorithm, as many as it says.
    let algorithm = usize::from(info.content[4]) + 2;
    let (_, inner) = OctetString::from_der(&info.content[3 + algorithm..]).unwrap();
    inner.as_cow().to_vec()
}

#[test]
fn keys_of_every_form_and_kind_are_read() {
    let folder = Folder::new();
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    for (key, text, kind) in [
        (&rsa, rsa.serialize_pem(), SignatureAlgorithm::RSA),
        (
            &rsa,
            pem("RSA PRIVATE KEY", &inner_key(&rsa)),
            SignatureAlgorithm::RSA,
        ),
        (&p256, p256.serialize_pem(), SignatureAlgorithm::ECDSA),
        (
            &p256,
            pem("EC PRIVATE KEY", &inner_key(&p256)),
            SignatureAlgorithm::ECDSA,
        ),
        (&p384, p384.serialize_pem(), SignatureAlgorithm::ECDSA),
        (
            &ed25519,
            ed25519.serialize_pem(),
            SignatureAlgorithm::ED25519,
        ),
    ] {
        folder.write("a.pem", names(&["a.org"]).self_signed(key).unwrap().pem());
        folder.write("a.key", pem("EC PARAMETERS", b"ignored") + &text);
        let identity = folder.identity("a").unwrap();
        assert_eq!(identity.certified.key.algorithm(), kind);
    }
    // Both in one file, as HAProxy has them.
    let cert = names(&["a.org"]).self_signed(&p256).unwrap().pem();
    folder.write("both.pem", p256.serialize_pem() + &cert);
    let both = folder.path("both.pem");
    assert!(identity(&both, &both).is_ok());
}

#[test]
fn what_is_wrong_with_a_pair_of_files_is_told_by_the_file_it_shows_in() {
    let folder = Folder::new();
    let key = folder.pair("good", names(&["a.org"]));
    let good = fs::read_to_string(folder.path("good.pem")).unwrap();
    let good_key = key.serialize_pem();
    let other = KeyPair::generate().unwrap().serialize_pem();
    let half = good.len() / 2;
    let cert = |name: &str, what: &str| {
        (
            PairFile::Certificate,
            format!("the certificate file {name:?} {what}"),
        )
    };
    let of_key = |name: &str, what: &str| (PairFile::Key, format!("the key file {name:?} {what}"));
    let garbage = pem("CERTIFICATE", b"hello");
    let cases: Vec<(String, String, (PairFile, String))> = vec![
        (String::new(), good_key.clone(), cert("x.pem", "has no certificate")),
        ("text".into(), good_key.clone(), cert("x.pem", "has no certificate")),
        (good[..half].into(), good_key.clone(), cert("x.pem", "is not PEM: a section has no END line")),
        (good.replace("BEGIN CERTIFICATE-----", "BEGIN CERTIFICATE"), good_key.clone(), cert("x.pem", "is not PEM: a BEGIN line does not end in -----")),
        (garbage.replace("aGVs", "a%Vs"), good_key.clone(), cert("x.pem", "is not PEM: a section is not Base64")),
        (garbage.clone(), good_key.clone(), cert("x.pem", "has an unusable certificate, number 1")),
        (good.clone() + &garbage, good_key.clone(), cert("x.pem", "has an unusable certificate, number 2")),
        (good_key.clone(), good_key.clone(), cert("x.pem", "holds a key and no certificate")),
        (good.clone(), String::new(), of_key("x.key", "has no key")),
        (good.clone(), good.clone(), of_key("x.key", "holds a certificate and no key")),
        (good.clone(), good_key.clone() + &other, of_key("x.key", "has 2 keys")),
        (good.clone(), pem("ENCRYPTED PRIVATE KEY", b"hello"), of_key("x.key", "is encrypted")),
        (
            good.clone(),
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n".into(),
            of_key("x.key", "is encrypted"),
        ),
        (good.clone(), pem("PRIVATE KEY", b"hello"), of_key("x.key", "has a key that cannot be used")),
        (good.clone(), other.clone(), (PairFile::Key, "the key in \"x.key\" is not that of the certificate \"x.pem\"".into())),
    ];
    for (cert, key, (file, message)) in cases {
        folder.write("x.pem", &cert);
        folder.write("x.key", &key);
        let flaws = folder.identity("x").unwrap_err();
        let [flaw] = flaws.as_slice() else {
            panic!("{message}: {flaws:?}")
        };
        assert_eq!((flaw.file, &flaw.message), (file, &message));
        assert!(!flaw.hint.is_empty());
    }
    let flaws = folder.identity("nowhere").unwrap_err();
    assert_eq!(flaws.len(), 2, "both are missing: {flaws:?}");
}

#[test]
fn a_certificate_that_is_not_valid_now_is_refused_with_the_day() {
    let folder = Folder::new();
    let now = SystemTime::now();
    let (past, future) = (now - 3 * DAY, now + 3 * DAY);
    let mut expired = names(&["a.org"]);
    expired.not_after = past.into();
    folder.pair("expired", expired);
    let mut early = names(&["a.org"]);
    early.not_before = future.into();
    folder.pair("early", early);
    for (name, what) in [
        ("expired", format!("expired on {}", date(past))),
        ("early", format!("is not valid before {}", date(future))),
    ] {
        let flaws = folder.identity(name).unwrap_err();
        let expected = Flaw {
            file: PairFile::Certificate,
            message: format!("the certificate file \"{name}.pem\" {what}"),
            hint: format!("renew it, or set the clock: today is {}", date(now)),
        };
        assert_eq!(flaws, [expected]);
    }
}

#[test]
fn a_chain_begins_with_the_own_certificate() {
    let folder = Folder::new();
    let (root, other) = (authority("root"), authority("other"));
    let key = folder.pair("x", names(&[]));
    let leaf = names(&["a.org"]).signed_by(&key, &root).unwrap().pem();
    let write = |parts: &[String]| folder.write("x.pem", parts.concat());
    write(&[leaf.clone(), root.pem()]);
    assert_eq!(folder.identity("x").unwrap().certified.cert.len(), 2);
    for parts in [[root.pem(), leaf.clone()], [leaf, other.pem()]] {
        write(&parts);
        let expected = Flaw {
            file: PairFile::Certificate,
            message: "the certificate file \"x.pem\" is out of order: its certificate number 2 \
                      has issued none before it"
                .to_owned(),
            hint: "first the own certificate, then the one that issued it, and so on".to_owned(),
        };
        assert_eq!(folder.identity("x").unwrap_err(), [expected]);
    }
}

/// The public half of an RSA key of 1024 bits: nobody has the other.
struct WeakKey(Vec<u8>);

impl WeakKey {
    fn new() -> WeakKey {
        let modulus = [[0x02, 0x81, 0x81, 0x00].as_slice(), &[0xc5; 128]].concat();
        let exponent = [0x02, 0x03, 0x01, 0x00, 0x01];
        let length = (modulus.len() + exponent.len()) as u8;
        WeakKey([&[0x30, 0x81, length], modulus.as_slice(), &exponent].concat())
    }
}

impl PublicKeyData for WeakKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

#[test]
fn a_weak_key_is_refused() {
    let folder = Folder::new();
    let weak = names(&["a.org"]).signed_by(&WeakKey::new(), &authority("root"));
    folder.pair("x", names(&["a.org"]));
    folder.write("x.pem", weak.unwrap().pem());
    let flaws = folder.identity("x").unwrap_err();
    assert_eq!(
        flaws[0].to_string(),
        "the certificate file \"x.pem\" has an RSA key of 1024 bits, fewer than 2048 (make a new \
         key: ECDSA with P-256, or RSA with 2048 bits or more)"
    );
}

#[test]
fn a_key_that_everybody_may_read_or_write_is_refused() {
    let folder = Folder::new();
    folder.pair("a", names(&["a.org"]));
    for (mode, what) in [
        (0o644, "read by everybody (mode 0644)"),
        (0o602, "written by everybody (mode 0602)"),
        (0o666, "read and written by everybody (mode 0666)"),
    ] {
        folder.set_mode("a.key", mode);
        let expected = Flaw {
            file: PairFile::Key,
            message: format!("the key file \"a.key\" may be {what}"),
            hint: "chmod 600 a.key".to_owned(),
        };
        assert_eq!(folder.identity("a").unwrap_err(), [expected]);
    }
    for mode in [0o600, 0o400, 0o640] {
        folder.set_mode("a.key", mode);
        assert!(folder.identity("a").is_ok(), "{mode:o}");
    }
}

#[test]
fn an_ocsp_response_beside_the_certificate_is_shown_with_it() {
    let folder = Folder::new();
    folder.pair("a", names(&["a.org"]));
    assert_eq!(folder.identity("a").unwrap().certified.ocsp, None);
    // OCSPResponse { successful, [0] … }, of which nobody but the client reads the second part.
    let good = [0x30, 0x05, 0x0a, 0x01, 0x00, 0xa0, 0x00];
    folder.write("a.pem.ocsp", good);
    let before = folder.identity("a").unwrap();
    assert_eq!(before.certified.ocsp.as_deref(), Some(good.as_slice()));
    let hint = "in DER, as `openssl ocsp -respout` writes it; remove the file to do without";
    for (bytes, what) in [
        (&[][..], "is empty"),
        (b"-----BEGIN OCSP RESPONSE-----", "is none"),
        (&good[..6], "is none"),
        (
            &[0x30, 0x03, 0x0a, 0x01, 0x03],
            "says that there is none (status 3)",
        ),
        (&[0; (64 << 10) + 1], "has more than 64 KiB"),
    ] {
        folder.write("a.pem.ocsp", bytes);
        let expected = Flaw {
            file: PairFile::Certificate,
            message: format!("the OCSP response \"a.pem.ocsp\" {what}"),
            hint: hint.to_owned(),
        };
        assert_eq!(folder.identity("a").unwrap_err(), [expected]);
    }
}

#[test]
fn a_pipe_or_an_endless_file_does_not_hold_up_the_check() {
    let folder = Folder::new();
    folder.pair("a", names(&["a.org"]));
    let pipe = folder.path("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let message = |cert: &Path| {
        let flaws = identity(cert, &folder.path("a.key")).unwrap_err();
        folder.bare(&flaws[0].message)
    };
    assert_eq!(
        message(&pipe),
        "the certificate file \"pipe\" is a pipe, not a file"
    );
    assert_eq!(
        message(Path::new("/dev/zero")),
        "the certificate file \"/dev/zero\" has more than 16 MiB"
    );
}

proptest! {
    /// A pair is read again while lbd serves: whatever stands there by then is told, or taken.
    #[test]
    fn no_bytes_in_any_of_the_files_make_the_reader_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        junk in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let folder = Folder::new();
        let key = KeyPair::generate().unwrap();
        let certificate = names(&["a.org", "*.a.org"]).self_signed(&key).unwrap();
        let mut der = certificate.der().to_vec();
        let mut key = key.serialize_der();
        for (at, byte) in &damage {
            let at = at.index(der.len());
            der[at] = *byte;
        }
        folder.write("x.pem", pem("CERTIFICATE", &der));
        folder.write("x.key", pem("PRIVATE KEY", &key));
        folder.write("x.pem.ocsp", &junk);
        let _ = folder.identity("x");
        let at = damage[0].0.index(key.len());
        key[at] ^= 1 | damage[0].1;
        folder.write("x.pem", certificate.pem());
        folder.write("x.key", pem("PRIVATE KEY", &key));
        let _ = folder.identity("x");
        folder.write("x.key", &junk);
        let _ = folder.identity("x");
    }
}

#[test]
fn a_certificate_that_expires_soon_is_warned_of() {
    let folder = Folder::new();
    let soon = SystemTime::now() + 13 * DAY;
    for (name, not_after) in [("soon", soon), ("later", soon + 2 * DAY)] {
        let mut params = names(&[name]);
        params.not_after = not_after.into();
        folder.pair(name, params);
    }
    let tls = |name: &str| format!("cert = \"{name}.pem\", key = \"{name}.key\"");
    let warned = |name: &str| {
        let listener = format!("pool = \"out\"\ntls.certificates = [{{ {} }}]", tls(name));
        let pool = format!("tls = {{ {}, ca = \"later.pem\" }}", tls(name));
        let said = warnings(&folder.settings(&with(&listener, &pool)));
        said.iter().map(|one| folder.bare(one)).collect::<Vec<_>>()
    };
    assert_eq!(warned("later"), [] as [&str; 0]);
    let day = date(soon);
    assert_eq!(
        warned("soon"),
        [
            format!("the certificate \"soon.pem\" of [[listener]] \"in\" expires on {day}"),
            format!("the certificate \"soon.pem\" of [[pool]] \"out\" expires on {day}"),
        ]
    );
}

#[test]
fn two_certificates_for_a_name_are_warned_of_unless_their_keys_differ_in_kind() {
    let folder = Folder::new();
    folder.pair("one", names(&["a.org", "b.org"]));
    folder.pair("two", names(&["c.org", "b.org"]));
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    folder.write(
        "rsa.pem",
        names(&["b.org"]).self_signed(&rsa).unwrap().pem(),
    );
    folder.write("rsa.key", rsa.serialize_pem());
    let warned = |list: &[&str]| {
        let pair = |name: &&str| format!("{{ cert = \"{name}.pem\", key = \"{name}.key\" }}");
        let pairs: Vec<String> = list.iter().map(pair).collect();
        let listener = format!("pool = \"out\"\ntls.certificates = [{}]", pairs.join(", "));
        let said = warnings(&folder.settings(&with(&listener, "")));
        said.iter().map(|one| folder.bare(one)).collect::<Vec<_>>()
    };
    assert_eq!(warned(&["one", "rsa"]), [] as [&str; 0]);
    assert_eq!(
        warned(&["one", "rsa", "two"]),
        [
            "the certificate \"two.pem\" of [[listener]] \"in\" is for \"b.org\", and so is \
             \"one.pem\" with the same kind of key, which is listed before it and shown instead"
        ]
    );
}

#[test]
fn what_makes_tls_or_proxy_headers_worthless_is_warned_of() {
    let folder = furnished();
    let warned = |listener: &str, pool: &str| {
        let said = warnings(&folder.settings(&with(&format!("pool = \"out\"\n{listener}"), pool)));
        said.iter().map(|one| folder.bare(one)).collect::<Vec<_>>()
    };
    let of_pool = "tls.insecure = true in [[pool]] \"out\": any certificate is accepted, so whoever \
                   answers there reads and writes what clients send and get";
    let of_probe = "health.tls.insecure = true in [[pool]] \"out\": its probe accepts any \
                    certificate, so whoever answers there counts as the backend";
    let insecure = "tls.insecure = true";
    assert_eq!(warned("", insecure), [of_pool]);
    assert_eq!(
        warned("", &format!("{insecure}\nhealth.probe = \"tls\"")),
        [of_pool]
    );
    let own = "tls.ca = \"ca.pem\"\nhealth = { probe = \"tls\", tls.insecure = true }";
    assert_eq!(warned("", own), [of_probe]);
    assert_eq!(
        warned("accept_proxy.from = [\"10.0.0.0/8\", \"::/0\"]", ""),
        [
            "accept_proxy.from of [[listener]] \"in\" has \"::/0\": every client may claim any address"
        ]
    );
    let ca = authority("late");
    folder.write("late.pem", ca.pem());
    let due = SystemTime::now() - 2 * DAY;
    folder.write("late.crl", revocations(&ca, due));
    let auth = format!("{TERMINATE}\nclient_auth = {{ ca = \"late.pem\", crl = \"late.crl\" }}");
    assert_eq!(
        warned(&auth, ""),
        [format!(
            "the CRL file \"late.crl\" of [[listener]] \"in\" has a list that was to be renewed by {}",
            date(due)
        )]
    );
    let routes = "tls.mode = \"passthrough\"\nroute = [{ sni = \"*.a.org\", pool = \"out\" }, { sni = \"b.a.org\", alpn = \"h2\", pool = \"out\" }]";
    assert_eq!(
        warned(routes, ""),
        [
            "[[listener.route]] number 2 of [[listener]] \"in\" is never taken: every client that \
             fits it fits number 1 before it"
        ]
    );
}

/// Files that settings made by chance may name.
#[derive(Clone)]
pub(super) struct Papers {
    _folder: Arc<Folder>,
    identities: Vec<Identity>,
    auth: ClientAuth,
}

impl Papers {
    pub(super) fn new() -> Papers {
        let folder = furnished();
        let text = format!(
            "pool = \"out\"\n{TERMINATE}\nclient_auth = {{ ca = \"ca.pem\", crl = \"crl.pem\" }}"
        );
        let listener = folder.settings(&with(&text, "")).listeners.remove(0);
        let Some(ListenerTls::Terminate(tls)) = listener.tls else {
            panic!("it terminates")
        };
        Papers {
            identities: ["a", "b"]
                .map(|name| folder.identity(name).unwrap())
                .to_vec(),
            auth: tls.client_auth.unwrap(),
            _folder: Arc::new(folder),
        }
    }

    fn any_client_auth(&self) -> impl Strategy<Value = Option<ClientAuth>> + use<> {
        let auth = self.auth.clone();
        prop::option::of((any::<bool>(), any::<bool>())).prop_map(move |chosen| {
            chosen.map(|(required, has_crl)| ClientAuth {
                ca: auth.ca.clone(),
                required,
                crl: auth.crl.clone().filter(|_| has_crl),
            })
        })
    }

    pub(super) fn any_listener_tls(&self) -> impl Strategy<Value = Option<ListenerTls>> + use<> {
        let terminate = (
            prop::sample::subsequence(self.identities.clone(), 1..=2),
            prop::sample::select(vec![TlsVersion::V12, TlsVersion::V13]),
            any_protocols(),
            self.any_client_auth(),
            any_duration(1),
        )
            .prop_map(
                |(certificates, min_version, alpn, client_auth, handshake_timeout)| {
                    ListenerTls::Terminate(Box::new(Terminate {
                        certificates,
                        min_version,
                        alpn,
                        client_auth,
                        handshake_timeout,
                    }))
                },
            );
        let passthrough = any_duration(1)
            .prop_map(|handshake_timeout| ListenerTls::Passthrough { handshake_timeout });
        prop::option::of(prop_oneof![terminate, passthrough])
    }

    pub(super) fn any_upstream_tls(&self) -> impl Strategy<Value = Option<UpstreamTls>> + use<> {
        let identity = prop::option::of(prop::sample::select(self.identities.clone()));
        let ca = prop::option::of(Just(self.auth.ca.clone()));
        let tls = (any_tls(), ca, identity).prop_map(|(mut verify, ca, identity)| {
            verify.insecure &= ca.is_none() || verify.server_name.is_empty();
            verify.ca = ca;
            UpstreamTls { verify, identity }
        });
        prop::option::of(tls)
    }

    /// Takes away what contradicts.
    pub(super) fn make_possible(&self, listener: &mut Listener, pools: &[Pool]) {
        let routes = listener.routes.iter().map(|route| route.pool);
        let led_to: Vec<&Pool> = routes
            .chain(listener.pool)
            .map(|pool| &pools[pool])
            .collect();
        let terminates = match &listener.tls {
            None => led_to.iter().any(|pool| pool.hash_key == HashKey::Sni),
            Some(ListenerTls::Passthrough { .. }) => led_to.iter().any(|pool| pool.tls.is_some()),
            Some(ListenerTls::Terminate(_)) => false,
        };
        if terminates {
            listener.tls = Some(ListenerTls::Terminate(Box::new(Terminate {
                certificates: self.identities.clone(),
                min_version: TlsVersion::V12,
                alpn: vec![],
                client_auth: None,
                handshake_timeout: DAY,
            })));
        }
        for route in &mut listener.routes {
            if listener.tls.is_none() {
                route.sni.clear();
                route.alpn.clear();
            }
        }
        let says = |route: &RouteRule| {
            !(route.sni.is_empty() && route.alpn.is_empty() && route.source.is_empty())
        };
        listener.routes.retain(says);
        if listener.routes.is_empty() && listener.pool.is_none() {
            listener.pool = pools.iter().position(|pool| {
                let is_plain = pool.tls.is_none() && pool.hash_key != HashKey::Sni;
                is_plain || matches!(listener.tls, Some(ListenerTls::Terminate(_)))
            });
            if listener.pool.is_none() {
                listener.pool = Some(0);
                self.make_possible(listener, pools);
            }
        }
    }
}

pub(super) fn any_accept_proxy() -> impl Strategy<Value = Option<AcceptProxy>> {
    let some = (prop::collection::vec(any_network(), 1..4), any_duration(1))
        .prop_map(|(from, timeout)| AcceptProxy { from, timeout });
    prop::option::of(some)
}

fn any_protocols() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let name = prop_oneof!["h2", "[${}A\"\\\\\n\u{7f}é]{1,16}", "\\PC{1,60}"];
    prop::collection::vec(name.prop_map(String::into_bytes), 0..3)
}

pub(super) fn any_routes(pools: usize) -> impl Strategy<Value = Vec<RouteRule>> {
    let name = "(\\*\\.)?[a-z0-9_]{1,10}(\\.[a-z0-9]{1,10}){0,2}\\.[a-z]{1,5}"
        .prop_map(|text| NamePattern::parse(&text).unwrap());
    let route = (
        prop::collection::vec(name, 0..3),
        any_protocols(),
        prop::collection::vec(any_network(), 0..3),
        0..pools,
    )
        .prop_map(|(sni, alpn, source, pool)| RouteRule {
            sni,
            alpn,
            source,
            pool,
        });
    prop::collection::vec(route, 0..4)
}
