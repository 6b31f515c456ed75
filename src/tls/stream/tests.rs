//! Two streams that talk through memory, cut at every byte; faults; keys that are used up.

use std::sync::{Arc, LazyLock};
use std::thread;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, ClientConfig, PeerMisbehaved, RootCertStore, ServerConfig,
    SupportedCipherSuite, SupportedProtocolVersion,
};

use super::*;

/// Bytes of the longer of the messages.
const LONG: usize = 200;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["peer.test".to_owned()]).unwrap();
    Identity {
        chain: vec![cert.der().clone()],
        key: PrivateKeyDer::Pkcs8(signing_key.serialize_der().into()),
    }
});

/// With small key shares, so that there are fewer places to cut at.
fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    }
}

fn server_config(of: CryptoProvider, version: &'static SupportedProtocolVersion) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(Arc::new(of))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(IDENTITY.chain.clone(), IDENTITY.key.clone_key())
        .unwrap();
    config.send_tls13_tickets = 1;
    config
}

fn client_config(of: CryptoProvider, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(IDENTITY.chain[0].clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(of))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A stream that hears what it is told in two parts.
struct End {
    tls: TlsStream,
    /// Bytes that came before the cut, and all that came.
    cut: usize,
    received: usize,
    /// Says a word of its own at the cut.
    interjects: bool,
    said: Vec<u8>,
    plain: Vec<u8>,
    has_ended: bool,
    buffers: Box<(Vec<u8>, Vec<u8>, Vec<u8>)>,
}

impl End {
    fn new(tls: TlsStream) -> End {
        let buffers = (
            vec![0; SEALED_BYTES],
            vec![0; PLAIN_BYTES],
            vec![0; SEALED_ROOM],
        );
        End {
            tls,
            cut: usize::MAX,
            received: 0,
            interjects: false,
            said: Vec::new(),
            plain: Vec::new(),
            has_ended: false,
            buffers: Box::new(buffers),
        }
    }

    fn hear(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let before = self.received;
        self.received += bytes.len();
        if (before..self.received).contains(&self.cut) {
            let (first, second) = bytes.split_at(self.cut - before);
            self.open(first)?;
            if self.interjects && self.tls.is_established() {
                self.say(b"!");
            }
            self.open(second)
        } else {
            self.open(bytes)
        }
    }

    fn open(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let (sealed, plain, _) = &mut *self.buffers;
            let front = self.tls.lay_out(sealed);
            let count = bytes.len().min(sealed.len() - front);
            sealed[front..front + count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            let opened = self.tls.open(&mut sealed[..front + count], plain)?;
            self.plain.extend_from_slice(&plain[..opened.plain]);
            self.has_ended = opened.ended;
            self.collect();
        }
        Ok(())
    }

    fn collect(&mut self) {
        self.said.extend_from_slice(self.tls.control());
        self.tls.control_sent();
    }

    fn say(&mut self, plain: &[u8]) {
        for part in plain.chunks(PLAIN_BYTES) {
            let (_, _, room) = &mut *self.buffers;
            let length = self.tls.seal(part, room).unwrap();
            self.said.extend_from_slice(&room[..length]);
        }
    }

    fn say_goodbye(&mut self) {
        self.tls.say_goodbye();
        self.collect();
    }

    /// Takes new keys and asks the other side to do the same.
    fn change_keys(&mut self) {
        fn ask<Data>(state: Result<ConnectionState<'_, '_, Data>, Error>) {
            match state {
                Ok(ConnectionState::WriteTraffic(traffic)) => {
                    traffic.refresh_traffic_keys().unwrap();
                }
                _ => panic!("it is established and idle"),
            }
        }
        match &mut self.tls.machine {
            Machine::Server(one) => ask(one.process_tls_records(&mut self.tls.partial).state),
            Machine::Client(one) => ask(one.process_tls_records(&mut self.tls.partial).state),
        }
        self.tls.open(&mut [], &mut []).unwrap();
        self.collect();
    }

    fn owns_no_buffer(&self) -> bool {
        self.tls.partial.capacity() == 0 && self.tls.control.capacity() == 0
    }
}

struct Conversation {
    client: End,
    server: End,
}

impl Conversation {
    fn between(client: ClientConfig, server: ServerConfig) -> Conversation {
        let name = ServerName::try_from("peer.test").unwrap();
        let mut client =
            TlsStream::client(UnbufferedClientConnection::new(Arc::new(client), name).unwrap());
        client.start().unwrap();
        let server = UnbufferedServerConnection::new(Arc::new(server)).unwrap();
        let mut this = Conversation {
            client: End::new(client),
            server: End::new(TlsStream::server(server)),
        };
        this.client.collect();
        this
    }

    fn of(version: &'static SupportedProtocolVersion) -> Conversation {
        Conversation::between(
            client_config(provider(), version),
            server_config(provider(), version),
        )
    }

    fn established(version: &'static SupportedProtocolVersion) -> Conversation {
        let mut this = Conversation::of(version);
        this.pass_on();
        assert!(this.client.tls.is_established() && this.server.tls.is_established());
        this
    }

    /// Lets each hear what the other says until neither says anything.
    fn pass_on(&mut self) {
        loop {
            let (asked, answered) = (
                std::mem::take(&mut self.client.said),
                std::mem::take(&mut self.server.said),
            );
            if asked.is_empty() && answered.is_empty() {
                return;
            }
            self.server.hear(&asked).unwrap();
            self.client.hear(&answered).unwrap();
        }
    }

    /// A whole connection: question and answer, new keys from either side, more of both, the end.
    fn play(&mut self) {
        let long = vec![7; LONG];
        self.pass_on();
        self.client.say(b"question");
        self.pass_on();
        self.server.say(&long);
        self.pass_on();
        if self.client.tls.facts().version == "1.3" {
            self.client.change_keys();
            self.server.change_keys();
        }
        self.client.say(b"more");
        self.server.say(b"more");
        self.pass_on();
        self.client.say_goodbye();
        self.pass_on();
        self.server.say(b"last");
        self.server.say_goodbye();
        self.pass_on();
    }

    #[track_caller]
    fn check(&self, told: &str) {
        for (end, want) in [
            (
                &self.client,
                [&vec![7; LONG][..], b"more", b"last"].concat(),
            ),
            (&self.server, b"questionmore".to_vec()),
        ] {
            let heard: Vec<u8> = end
                .plain
                .iter()
                .copied()
                .filter(|&byte| byte != b'!')
                .collect();
            assert!(heard == want, "{told}: {} bytes", heard.len());
            assert!(end.has_ended, "{told}: no end was heard");
            assert!(end.owns_no_buffer(), "{told}: {:?}", end.tls);
        }
    }
}

/// Of everything that either side hears, with a word of its own in the gap.
#[test]
fn a_connection_cut_at_any_byte_says_the_same() {
    fn cut_everywhere(version: &'static SupportedProtocolVersion) {
        let mut whole = Conversation::of(version);
        whole.play();
        whole.check("whole");
        // Signatures differ in length by a few bytes.
        for at in 0..whole.client.received + 8 {
            let mut cut = Conversation::of(version);
            (cut.client.cut, cut.client.interjects) = (at, at % 2 == 0);
            cut.play();
            cut.check(&format!("to the client at {at}, {version:?}"));
        }
        for at in 0..whole.server.received + 8 {
            let mut cut = Conversation::of(version);
            (cut.server.cut, cut.server.interjects) = (at, at % 2 == 0);
            cut.play();
            cut.check(&format!("to the server at {at}, {version:?}"));
        }
    }
    thread::scope(|scope| {
        for version in VERSIONS {
            scope.spawn(move || cut_everywhere(version));
        }
    });
}

#[test]
fn a_connection_that_comes_byte_by_byte_says_the_same() {
    for version in VERSIONS {
        let mut this = Conversation::of(version);
        for _ in 0..20 {
            for byte in std::mem::take(&mut this.client.said) {
                this.server.hear(&[byte]).unwrap();
            }
            for byte in std::mem::take(&mut this.server.said) {
                this.client.hear(&[byte]).unwrap();
            }
        }
        this.play();
        this.check("byte by byte");
    }
}

/// A message that goes on in the next record is kept where it lies, also while data is sent.
#[test]
fn data_is_sent_while_a_message_has_come_in_part() {
    let mut size = 0;
    for at in 0.. {
        let mut server = server_config(provider(), &TLS13);
        server.max_fragment_size = Some(64);
        let mut this = Conversation::between(client_config(provider(), &TLS13), server);
        (this.client.cut, this.client.interjects) = (at, true);
        this.pass_on();
        if at > this.client.received {
            break;
        }
        size = at;
        this.server.say(b"answer");
        this.pass_on();
        assert_eq!(this.client.plain, b"answer", "cut at {at}");
    }
    assert!(size > 500, "the ticket did not come in part");
}

/// Neither of the two is finished, so neither may be forgotten or looked for elsewhere.
#[test]
fn a_message_that_is_interrupted_by_another_is_a_fault() {
    let mut this = Conversation::of(&TLS12);
    let hello = std::mem::take(&mut this.client.said);
    this.server.hear(&hello).unwrap();
    // Two bytes of a ClientKeyExchange, then an alert.
    let result = this
        .server
        .hear(b"\x16\x03\x03\x00\x02\x10\x00\x15\x03\x03\x00\x02\x01\x5a");
    let interrupted = Error::PeerMisbehaved(PeerMisbehaved::MessageInterleavedWithHandshakeMessage);
    assert_eq!(result, Err(interrupted.clone()));
    assert_eq!(this.server.tls.fault(), Some(&interrupted));
    assert_eq!(this.server.hear(b"\x15"), Err(interrupted));
}

#[test]
fn what_came_ahead_of_a_broken_record_is_given_and_the_peer_is_told() {
    for version in VERSIONS {
        let mut this = Conversation::established(version);
        this.client.say(b"whole");
        this.client.say(b"broken");
        let mut said = std::mem::take(&mut this.client.said);
        *said.last_mut().unwrap() ^= 1;
        this.server.hear(&said).unwrap();
        assert_eq!(this.server.plain, b"whole");
        assert_eq!(this.server.tls.fault(), Some(&Error::DecryptError));
        assert!(!this.server.said.is_empty(), "no alert");
        let alert = std::mem::take(&mut this.server.said);
        let told = Error::AlertReceived(AlertDescription::BadRecordMac);
        assert_eq!(this.client.hear(&alert), Err(told));
        assert!(this.server.tls.seal(b"x", &mut [0; 4096]).is_err());
    }
}

#[test]
fn a_second_goodbye_says_nothing() {
    let mut this = Conversation::established(&TLS13);
    this.client.say_goodbye();
    let once = this.client.said.len();
    this.client.say_goodbye();
    assert_eq!(this.client.said.len(), once);
    this.pass_on();
    assert!(this.server.has_ended && this.server.tls.has_ended());
}

#[test]
fn what_follows_a_goodbye_is_not_read() {
    let mut this = Conversation::established(&TLS13);
    this.client.say(b"all");
    this.client.say_goodbye();
    this.client.said.extend_from_slice(b"and more");
    this.pass_on();
    assert_eq!(this.server.plain, b"all");
    assert!(this.server.has_ended && this.server.owns_no_buffer());
}

/// The suite of a provider with keys that are used up after a few records.
fn short_lived(of: CryptoProvider) -> CryptoProvider {
    let mut suites = of.cipher_suites;
    for suite in &mut suites {
        match suite {
            SupportedCipherSuite::Tls12(one) => {
                let mut common = common(&one.common);
                common.confidentiality_limit = 16;
                *suite =
                    SupportedCipherSuite::Tls12(Box::leak(Box::new(rustls::Tls12CipherSuite {
                        common,
                        ..**one
                    })));
            }
            SupportedCipherSuite::Tls13(one) => {
                let mut common = common(&one.common);
                common.confidentiality_limit = 16;
                *suite =
                    SupportedCipherSuite::Tls13(Box::leak(Box::new(rustls::Tls13CipherSuite {
                        common,
                        ..**one
                    })));
            }
        }
    }
    CryptoProvider {
        cipher_suites: suites,
        ..of
    }
}

fn common(of: &rustls::crypto::CipherSuiteCommon) -> rustls::crypto::CipherSuiteCommon {
    rustls::crypto::CipherSuiteCommon {
        suite: of.suite,
        hash_provider: of.hash_provider,
        confidentiality_limit: of.confidentiality_limit,
    }
}

#[test]
fn keys_are_renewed_before_they_are_used_up() {
    let mut this = Conversation::between(
        client_config(short_lived(provider()), &TLS13),
        server_config(short_lived(provider()), &TLS13),
    );
    this.pass_on();
    let piece = vec![1; PLAIN_BYTES];
    for round in 1..=40 {
        this.client.say(&piece);
        this.server.say(b"small");
        // Every other answer is on its way while keys change.
        if round % 2 == 0 {
            this.pass_on();
            assert_eq!(this.server.plain.len(), round * PLAIN_BYTES);
            assert_eq!(this.client.plain.len(), round * 5);
        }
    }
}

/// TLS 1.2 cannot renew keys. Whatever is missing then must not look as if it were not.
#[test]
fn a_connection_whose_keys_are_used_up_does_not_say_that_it_ends() {
    let mut this = Conversation::between(
        client_config(provider(), &TLS12),
        server_config(short_lived(provider()), &TLS12),
    );
    this.pass_on();
    let mut room = vec![0; SEALED_ROOM];
    let mut sealed = 0;
    let error = loop {
        match this.server.tls.seal(b"some", &mut room) {
            Ok(length) => this.server.said.extend_from_slice(&room[..length]),
            Err(error) => break error,
        }
        sealed += 4;
        assert!(sealed < 1000, "the keys last");
    };
    assert_eq!(error, Error::EncryptError);
    this.client.say(b"question");
    this.pass_on();
    assert_eq!(this.client.plain.len(), sealed);
    assert!(!this.client.has_ended, "a cut connection looks complete");
}
