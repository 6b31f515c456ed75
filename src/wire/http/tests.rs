//! Responses of every kind, at every split.

use proptest::prelude::*;

use super::*;

const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nallok";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n\
                       2;a=b\r\nal\r\n02 \r\nlo\r\n1\r\nk\r\n0\r\nTrailer: x\r\n\r\n";

fn check(expect_body: &str) -> ResponseCheck {
    ResponseCheck::new(vec![200..=399], expect_body)
}

/// The verdict on a whole response after which the peer closes.
fn verdict<'a>(mut check: ResponseCheck, pieces: impl IntoIterator<Item = &'a [u8]>) -> Progress {
    for piece in pieces {
        let progress = check.feed(piece);
        if progress != Progress::NeedMore {
            assert_eq!(check.feed(b"more"), progress, "a verdict stays");
            assert_eq!(check.end_of_stream(), progress, "a verdict stays");
            return progress;
        }
    }
    let progress = check.end_of_stream();
    assert_ne!(progress, Progress::NeedMore);
    progress
}

/// Whole, byte by byte, and split in two at each point, the verdict has to be the same.
fn at_every_split(check: &ResponseCheck, response: &[u8]) -> Progress {
    let whole = verdict(check.clone(), [response]);
    assert_eq!(
        verdict(check.clone(), response.chunks(1)),
        whole,
        "byte by byte"
    );
    for at in 0..=response.len() {
        let (first, second) = response.split_at(at);
        assert_eq!(
            verdict(check.clone(), [first, second]),
            whole,
            "split at {at}"
        );
    }
    whole
}

#[test]
fn each_kind_of_response_gets_its_verdict_at_every_split() {
    let until_close = "HTTP/1.0 200 OK\r\nServer: x\r\n\r\nallok";
    let interim =
        format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n{LENGTH}");
    let not_found = "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nok";
    let cases: &[(&str, &str, Result<&str, &str>)] = &[
        ("", LENGTH, Ok("HTTP 200")),
        ("lok", LENGTH, Ok("HTTP 200")),
        ("lok", CHUNKED, Ok("HTTP 200")),
        ("lok", until_close, Ok("HTTP 200")),
        ("lok", &interim, Ok("HTTP 200")),
        ("", "HTTP/1.1 302\r\n\r\n", Ok("HTTP 302")),
        ("", "HTTP/1.1 200 OK\nContent-Length: 5\n\n", Ok("HTTP 200")),
        ("", "\r\nHTTP/1.1 204 No Content\r\n\r\n", Ok("HTTP 204")),
        ("ko", LENGTH, Err("body does not contain \"ko\"")),
        ("ko", CHUNKED, Err("body does not contain \"ko\"")),
        ("ko", until_close, Err("body does not contain \"ko\"")),
        (
            "x",
            "HTTP/1.1 204 No Content\r\n\r\nx",
            Err("body does not contain \"x\""),
        ),
        (
            "x",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nx",
            Err("body does not contain \"x\""),
        ),
        ("ok", not_found, Err("HTTP 404, expected 200-399")),
        (
            "",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            Err("HTTP 101, expected 200-399"),
        ),
        ("", "", Err("closed without an answer")),
        (
            "",
            "HTTP/1.1 100 Continue\r\n\r\n",
            Err("closed without an answer"),
        ),
        (
            "",
            "HTTP/1.1 200 OK\r\nSer",
            Err("closed within the response's head"),
        ),
        (
            "x",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nallo",
            Err("closed within the response's body"),
        ),
        (
            "x",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n",
            Err("closed within the response's body"),
        ),
        (
            "",
            "SSH-2.0-OpenSSH_9.2\r\n",
            Err("not HTTP: invalid HTTP version"),
        ),
        (
            "",
            "HTTP/2.0 200 OK\r\n\r\n",
            Err("not HTTP: invalid HTTP version"),
        ),
        (
            "",
            "HTTP/1.1 2000 OK\r\n\r\n",
            Err("not HTTP: invalid response status"),
        ),
        (
            "",
            "HTTP/1.1 20x OK\r\n\r\n",
            Err("not HTTP: invalid response status"),
        ),
        (
            "",
            "\x15\x03\x01\x00\x02\x02\x46",
            Err("not HTTP: invalid HTTP version"),
        ),
        (
            "x",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nallok",
            Err("body does not contain \"x\""),
        ),
        (
            "x",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nx",
            Err("not HTTP: invalid Content-Length"),
        ),
        (
            "x",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nx",
            Err("not HTTP: invalid Content-Length"),
        ),
        (
            "x",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx",
            Err("not HTTP: invalid Content-Length"),
        ),
        (
            "x",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx",
            Err("not HTTP: invalid chunk"),
        ),
        (
            "x",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\nx",
            Err("not HTTP: invalid chunk"),
        ),
        (
            "x",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nyy",
            Err("not HTTP: invalid chunk"),
        ),
        (
            "x",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000000000000000\r\nx",
            Err("not HTTP: invalid chunk"),
        ),
    ];
    for &(expect_body, response, expected) in cases {
        let got = at_every_split(&check(expect_body), response.as_bytes());
        let expected = match expected {
            Ok(detail) => Progress::Passed(detail.to_owned()),
            Err(detail) => Progress::Failed(detail.to_owned()),
        };
        assert_eq!(got, expected, "{response:?}");
    }
}

#[test]
fn the_status_suffices_when_nothing_is_expected_of_the_body() {
    let mut check = check("");
    assert_eq!(
        check.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n"),
        Progress::NeedMore
    );
    assert_eq!(check.feed(b"\r\n"), Progress::Passed("HTTP 200".to_owned()));
}

#[test]
fn the_text_suffices_wherever_it_ends() {
    let mut check = check("ok");
    assert_eq!(
        check.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\no"),
        Progress::NeedMore
    );
    assert_eq!(check.feed(b"k"), Progress::Passed("HTTP 200".to_owned()));
}

#[test]
fn the_expected_statuses_are_told_as_they_were_given() {
    let check = ResponseCheck::new(vec![200..=204, 301..=301], "");
    let got = verdict(check, [b"HTTP/1.1 503 Busy\r\n\r\n".as_slice()]);
    assert_eq!(
        got,
        Progress::Failed("HTTP 503, expected 200-204, 301".to_owned())
    );
}

#[test]
fn a_head_is_looked_at_up_to_its_limit_whoever_fills_it() {
    let over = Progress::Failed("the response's head is over 16 KiB".to_owned());
    let long_line = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20_000));
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
    let blank = "\r\n".repeat(10_000);
    for response in [long_line, interim, blank] {
        assert_eq!(verdict(check(""), [response.as_bytes()]), over);
        assert_eq!(verdict(check(""), response.as_bytes().chunks(1)), over);
        assert_eq!(verdict(check(""), response.as_bytes().chunks(1000)), over);
    }
    let begin = "HTTP/1.1 200 OK\r\nX: ";
    let largest = format!(
        "{begin}{}\r\n\r\n",
        "x".repeat(HEAD_BYTES_MAX - begin.len() - 4)
    );
    let passed = Progress::Passed("HTTP 200".to_owned());
    assert_eq!(verdict(check(""), [largest.as_bytes()]), passed);
    assert_eq!(verdict(check(""), largest.as_bytes().chunks(1)), passed);
    let many = format!(
        "HTTP/1.1 200 OK\r\n{}\r\n",
        "A: b\r\n".repeat(HEADERS_MAX + 1)
    );
    let too_many = Progress::Failed("not HTTP: too many headers".to_owned());
    assert_eq!(verdict(check(""), [many.as_bytes()]), too_many);
    assert_eq!(verdict(check(""), many.as_bytes().chunks(1)), too_many);
}

#[test]
fn a_body_is_searched_up_to_its_limit_however_it_is_framed() {
    let limit = BODY_BYTES_MAX as usize;
    let lacks = Progress::Failed("body does not contain \"ok\" (first 64 KiB)".to_owned());
    for (begin, end) in [
        ("HTTP/1.1 200 OK\r\n\r\n", ""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", ""),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nF4240\r\n",
            "",
        ),
    ] {
        let within = format!("{begin}{}ok{end}", "x".repeat(limit - 2));
        let beyond = format!("{begin}{}ok{end}", "x".repeat(limit - 1));
        for size in [1, 1000, usize::MAX] {
            let found = verdict(check("ok"), within.as_bytes().chunks(size));
            assert_eq!(found, Progress::Passed("HTTP 200".to_owned()));
            assert_eq!(verdict(check("ok"), beyond.as_bytes().chunks(size)), lacks);
        }
    }
}

#[test]
fn a_long_expected_text_is_told_by_its_beginning() {
    let text = "\u{fc}".repeat(100);
    let got = verdict(check(&text), [LENGTH.as_bytes()]);
    let shown = format!("body does not contain \"{}\"...", "\u{fc}".repeat(64));
    assert_eq!(got, Progress::Failed(shown));
}

#[test]
fn the_request_asks_to_close_and_names_the_prober() {
    assert_eq!(
        String::from_utf8(request("/health?x=1", "web.example:80")).unwrap(),
        "GET /health?x=1 HTTP/1.1\r\nHost: web.example:80\r\nUser-Agent: lbd-probe\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    );
}

/// Bytes in pieces of the given sizes, again and again.
fn pieces<'a>(bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut sizes = sizes.iter().copied().cycle();
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(sizes.next().unwrap().min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..200, 1..20)
}

proptest! {
    #[test]
    fn any_bytes_get_the_same_verdict_in_any_pieces(
        bytes in prop::collection::vec(any::<u8>(), 0..300), sizes in sizes()
    ) {
        let whole = verdict(check("ok"), [bytes.as_slice()]);
        prop_assert_eq!(verdict(check("ok"), pieces(&bytes, &sizes)), whole);
    }

    #[test]
    fn a_damaged_response_gets_the_same_verdict_in_any_pieces(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        is_chunked: bool,
        sizes in sizes(),
    ) {
        let mut bytes = if is_chunked { CHUNKED } else { LENGTH }.as_bytes().to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let whole = verdict(check("lok"), [bytes.as_slice()]);
        prop_assert_eq!(verdict(check("lok"), pieces(&bytes, &sizes)), whole);
    }

    #[test]
    fn the_search_finds_what_a_plain_one_finds(
        text in "[ab]{0,40}", needle in "[ab]{1,6}", sizes in sizes()
    ) {
        let mut search = Search::new(needle.as_bytes());
        let mut is_found = false;
        for piece in pieces(text.as_bytes(), &sizes) {
            is_found = is_found || search.feed(piece);
        }
        prop_assert_eq!(is_found, text.contains(&needle));
    }
}
