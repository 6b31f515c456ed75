//! One session as one line, in either form; both take the fields' order from one function.

use std::net::SocketAddr;
use std::time::Duration;

use crate::base::addr::ClientAddr;
use crate::base::ending::{Phase, RelayPath, Termination};
use crate::observe::form::{Format, push_json, push_text};

/// What the log says of one session. Texts may be empty.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub listener: &'a str,
    pub client: ClientAddr,
    pub pool: &'a str,
    pub backend: &'a str,
    /// Server name that the client asked for.
    pub sni: &'a str,
    pub alpn: &'a str,
    /// Version of TLS.
    pub tls: &'a str,
    pub phase: Phase,
    pub termination: Termination,
    /// A finer word than `termination`.
    pub detail: &'a str,
    pub queue: Duration,
    pub connect: Option<Duration>,
    /// From accept to the backend's first byte.
    pub first_byte: Option<Duration>,
    pub duration: Duration,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
    /// Backends tried.
    pub tries: u32,
    pub path: RelayPath,
    /// The tries before the last one, or all of them when none brought a connection.
    pub failed_tries: &'a [FailedTry],
    /// Who passed the client's connection on, with a header that said whose it is.
    pub passed_on_by: Option<ClientAddr>,
    /// Subject and serial number of the client's certificate.
    pub certificate: Option<(&'a str, &'a str)>,
    /// Number of the connection that the backend was told; 0 = none.
    pub id: u64,
}

/// A connect that brought no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedTry {
    pub backend: Box<str>,
    /// One word.
    pub error: &'static str,
    pub took: Duration,
}

/// Appends the session's line, line end included.
pub(super) fn push_line(out: &mut Vec<u8>, format: Format, time: &[u8; 24], record: &Record<'_>) {
    match format {
        Format::Text => {
            out.extend_from_slice(b"time=");
            out.extend_from_slice(time);
            push_fields(&mut Text(out), record);
            out.push(b'\n');
        }
        Format::Json => {
            out.extend_from_slice(b"{\"time\":\"");
            out.extend_from_slice(time);
            out.push(b'"');
            push_fields(&mut Json(out), record);
            out.extend_from_slice(b"}\n");
        }
    }
}

fn push_fields(line: &mut impl Line, record: &Record<'_>) {
    line.text("listener", record.listener);
    line.client("client", record.client);
    line.text("pool", record.pool);
    line.text("backend", record.backend);
    line.text("sni", record.sni);
    line.text("alpn", record.alpn);
    line.text("tls", record.tls);
    line.word("phase", record.phase.as_str());
    line.word("termination", record.termination.as_str());
    line.millis("queue_ms", Some(record.queue));
    line.millis("connect_ms", record.connect);
    line.millis("first_byte_ms", record.first_byte);
    line.millis("duration_ms", Some(record.duration));
    line.number("bytes_to_backend", record.bytes_to_backend);
    line.number("bytes_to_client", record.bytes_to_client);
    line.number("tries", record.tries.into());
    line.word("path", record.path.as_str());
    if !record.detail.is_empty() {
        line.text("detail", record.detail);
    }
    if !record.failed_tries.is_empty() {
        line.failed_tries("failed_tries", record.failed_tries);
    }
    if let Some(by) = record.passed_on_by {
        line.client("passed_on_by", by);
    }
    if let Some((subject, serial)) = record.certificate {
        line.text("client_subject", subject);
        line.text("client_serial", serial);
    }
    if record.id != 0 {
        line.text("id", &format!("{:016x}", record.id));
    }
}

trait Line {
    /// A value that others chose.
    fn text(&mut self, key: &'static str, value: &str);
    /// A value that needs no escape; may be empty.
    fn word(&mut self, key: &'static str, value: &'static str);
    fn client(&mut self, key: &'static str, value: ClientAddr);
    fn number(&mut self, key: &'static str, value: u64);
    fn millis(&mut self, key: &'static str, value: Option<Duration>);
    fn failed_tries(&mut self, key: &'static str, value: &[FailedTry]);
}

struct Text<'a>(&'a mut Vec<u8>);

impl Text<'_> {
    #[inline]
    fn key(&mut self, key: &'static str) {
        self.0.push(b' ');
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b'=');
    }
}

impl Line for Text<'_> {
    #[inline]
    fn text(&mut self, key: &'static str, value: &str) {
        self.key(key);
        push_text(self.0, value);
    }

    #[inline]
    fn word(&mut self, key: &'static str, value: &'static str) {
        self.key(key);
        self.0.extend_from_slice(if value.is_empty() {
            b"-"
        } else {
            value.as_bytes()
        });
    }

    #[inline]
    fn client(&mut self, key: &'static str, value: ClientAddr) {
        self.key(key);
        push_client(self.0, value);
    }

    #[inline]
    fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        push_number(self.0, value);
    }

    #[inline]
    fn millis(&mut self, key: &'static str, value: Option<Duration>) {
        self.key(key);
        match value {
            Some(value) => push_millis(self.0, value),
            None => self.0.push(b'-'),
        }
    }

    /// `a:refused:0.052,b:timed_out:2000.120`, the last in milliseconds.
    fn failed_tries(&mut self, key: &'static str, value: &[FailedTry]) {
        let mut text = Vec::new();
        for (place, failed) in value.iter().enumerate() {
            if place > 0 {
                text.push(b',');
            }
            text.extend_from_slice(failed.backend.as_bytes());
            text.push(b':');
            text.extend_from_slice(failed.error.as_bytes());
            text.push(b':');
            push_millis(&mut text, failed.took);
        }
        self.text(key, &String::from_utf8_lossy(&text));
    }
}

struct Json<'a>(&'a mut Vec<u8>);

impl Json<'_> {
    #[inline]
    fn key(&mut self, key: &'static str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }
}

impl Line for Json<'_> {
    #[inline]
    fn text(&mut self, key: &'static str, value: &str) {
        self.key(key);
        push_json(self.0, value);
    }

    #[inline]
    fn word(&mut self, key: &'static str, value: &'static str) {
        self.key(key);
        self.0.push(b'"');
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'"');
    }

    #[inline]
    fn client(&mut self, key: &'static str, value: ClientAddr) {
        self.key(key);
        self.0.push(b'"');
        push_client(self.0, value);
        self.0.push(b'"');
    }

    #[inline]
    fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        push_number(self.0, value);
    }

    #[inline]
    fn millis(&mut self, key: &'static str, value: Option<Duration>) {
        self.key(key);
        match value {
            Some(value) => push_millis(self.0, value),
            None => self.0.extend_from_slice(b"null"),
        }
    }

    fn failed_tries(&mut self, key: &'static str, value: &[FailedTry]) {
        self.key(key);
        for (place, failed) in value.iter().enumerate() {
            self.0.push(if place == 0 { b'[' } else { b',' });
            self.0.extend_from_slice(b"{\"backend\":");
            push_json(self.0, &failed.backend);
            self.0.extend_from_slice(b",\"error\":\"");
            self.0.extend_from_slice(failed.error.as_bytes());
            self.0.extend_from_slice(b"\",\"ms\":");
            push_millis(self.0, failed.took);
            self.0.push(b'}');
        }
        self.0.push(b']');
    }
}

/// The same as `Display`, without its formatting machinery for the common IPv4.
fn push_client(out: &mut Vec<u8>, client: ClientAddr) {
    match client {
        ClientAddr::Ip(SocketAddr::V4(addr)) => {
            for (place, octet) in addr.ip().octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                push_number(out, octet.into());
            }
            out.push(b':');
            push_number(out, addr.port().into());
        }
        other => {
            use std::io::Write;
            let _infallible = write!(out, "{other}");
        }
    }
}

fn push_number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with at most three decimals: `12`, `0.5`, `3.042`.
fn push_millis(out: &mut Vec<u8>, value: Duration) {
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    push_number(out, micros / 1000);
    let fraction = (micros % 1000) as u16;
    if fraction > 0 {
        let [hundreds, tens, ones] = [fraction / 100, fraction / 10 % 10, fraction % 10];
        out.extend_from_slice(&[b'.', b'0' + hundreds as u8]);
        if tens > 0 || ones > 0 {
            out.push(b'0' + tens as u8);
        }
        if ones > 0 {
            out.push(b'0' + ones as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &[u8; 24] = b"2026-01-02T03:04:05.678Z";

    fn line(format: Format, record: &Record<'_>) -> String {
        let mut out = Vec::new();
        push_line(&mut out, format, TIME, record);
        String::from_utf8(out).unwrap()
    }

    fn full() -> Record<'static> {
        Record {
            listener: "web",
            client: ClientAddr::from_socket("192.0.2.7:51234".parse().unwrap()),
            pool: "api",
            backend: "a",
            sni: "api.example.com",
            alpn: "h2",
            tls: "1.3",
            phase: Phase::Relay,
            termination: Termination::ClientClosed,
            detail: "",
            queue: Duration::ZERO,
            connect: Some(Duration::from_micros(250)),
            first_byte: Some(Duration::from_micros(12_340)),
            duration: Duration::from_millis(61_001),
            bytes_to_backend: 1_234,
            bytes_to_client: u64::MAX,
            tries: 1,
            path: RelayPath::Splice,
            failed_tries: &[],
            passed_on_by: None,
            certificate: None,
            id: 0,
        }
    }

    fn empty() -> Record<'static> {
        Record {
            client: ClientAddr::Unix,
            pool: "",
            backend: "",
            sni: "",
            alpn: "",
            tls: "",
            phase: Phase::Preface,
            termination: Termination::ProxyHeaderInvalid,
            detail: "line over 107 bytes",
            connect: None,
            first_byte: None,
            duration: Duration::from_micros(1_005),
            bytes_to_backend: 0,
            bytes_to_client: 0,
            tries: 0,
            path: RelayPath::None,
            failed_tries: &[],
            ..full()
        }
    }

    #[test]
    fn the_text_form_is_pairs_in_the_published_order() {
        assert_eq!(
            line(Format::Text, &full()),
            "time=2026-01-02T03:04:05.678Z listener=web client=192.0.2.7:51234 pool=api backend=a \
             sni=api.example.com alpn=h2 tls=1.3 phase=relay termination=client_closed queue_ms=0 \
             connect_ms=0.25 first_byte_ms=12.34 duration_ms=61001 bytes_to_backend=1234 \
             bytes_to_client=18446744073709551615 tries=1 path=splice\n"
        );
    }

    #[test]
    fn the_json_form_has_the_same_keys_in_the_same_order() {
        assert_eq!(
            line(Format::Json, &full()),
            "{\"time\":\"2026-01-02T03:04:05.678Z\",\"listener\":\"web\",\
             \"client\":\"192.0.2.7:51234\",\"pool\":\"api\",\"backend\":\"a\",\
             \"sni\":\"api.example.com\",\"alpn\":\"h2\",\"tls\":\"1.3\",\"phase\":\"relay\",\
             \"termination\":\"client_closed\",\"queue_ms\":0,\"connect_ms\":0.25,\
             \"first_byte_ms\":12.34,\"duration_ms\":61001,\"bytes_to_backend\":1234,\
             \"bytes_to_client\":18446744073709551615,\"tries\":1,\"path\":\"splice\"}\n"
        );
    }

    #[test]
    fn what_is_unknown_is_a_dash_in_text_and_null_or_empty_in_json() {
        assert_eq!(
            line(Format::Text, &empty()),
            "time=2026-01-02T03:04:05.678Z listener=web client=unix: pool=- backend=- sni=- alpn=- \
             tls=- phase=preface termination=proxy_header_invalid queue_ms=0 connect_ms=- \
             first_byte_ms=- duration_ms=1.005 bytes_to_backend=0 bytes_to_client=0 tries=0 \
             path=- detail=\"line over 107 bytes\"\n"
        );
        assert_eq!(
            line(Format::Json, &empty()),
            "{\"time\":\"2026-01-02T03:04:05.678Z\",\"listener\":\"web\",\"client\":\"unix:\",\
             \"pool\":\"\",\"backend\":\"\",\"sni\":\"\",\"alpn\":\"\",\"tls\":\"\",\
             \"phase\":\"preface\",\"termination\":\"proxy_header_invalid\",\"queue_ms\":0,\
             \"connect_ms\":null,\"first_byte_ms\":null,\"duration_ms\":1.005,\
             \"bytes_to_backend\":0,\"bytes_to_client\":0,\"tries\":0,\"path\":\"\",\
             \"detail\":\"line over 107 bytes\"}\n"
        );
    }

    #[test]
    fn a_hostile_name_stays_within_its_value() {
        let record = Record {
            sni: "x\" y=\n\x1b[2J\\",
            ..full()
        };
        let text = line(Format::Text, &record);
        assert!(
            text.contains(r#" sni="x\" y=\n\x1b[2J\\" alpn=h2 "#),
            "{text}"
        );
        assert_eq!(text.matches('\n').count(), 1);
        let json = line(Format::Json, &record);
        assert!(
            json.contains(r#","sni":"x\" y=\n\u001b[2J\\","alpn":"h2","#),
            "{json}"
        );
        assert_eq!(json.matches('\n').count(), 1);
    }

    #[test]
    fn clients_are_written_as_they_display() {
        for addr in [
            "0.0.0.0:0",
            "255.10.1.99:65535",
            "[2001:db8::1]:443",
            "[::]:1",
        ] {
            let client = ClientAddr::from_socket(addr.parse().unwrap());
            let mut out = Vec::new();
            push_client(&mut out, client);
            assert_eq!(out, client.to_string().as_bytes());
        }
    }

    #[test]
    fn milliseconds_have_as_many_decimals_as_they_need() {
        for (micros, shown) in [
            (0, "0"),
            (1, "0.001"),
            (10, "0.01"),
            (100, "0.1"),
            (101, "0.101"),
            (1_000, "1"),
            (999_999, "999.999"),
        ] {
            let mut out = Vec::new();
            push_millis(&mut out, Duration::from_micros(micros));
            assert_eq!(String::from_utf8(out).unwrap(), shown);
        }
        push_millis(&mut Vec::new(), Duration::MAX);
    }
}
