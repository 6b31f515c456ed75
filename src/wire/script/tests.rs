//! Escapes there and back, and answers at every split point.

use proptest::prelude::*;

use super::*;

#[test]
fn every_escape_is_a_byte_and_all_other_text_is_itself() {
    for (text, bytes) in [
        ("", b"".as_slice()),
        (r"PING\r\n", b"PING\r\n"),
        ("PING\r\n", b"PING\r\n"),
        (r"a\tb\\n", b"a\tb\\n"),
        (r"\x00\xfF\x7a1", b"\x00\xff\x7a1"),
        ("\u{e9}\\n", b"\xc3\xa9\n"),
    ] {
        assert_eq!(unescape(text).as_deref(), Ok(bytes), "{text}");
    }
}

#[test]
fn what_is_no_escape_is_told_with_its_place() {
    for (text, at, what) in [
        ("ab\\", 2..3, "a backslash at the end"),
        (r"ab\q", 2..4, "\\q is no escape"),
        (r"\x4", 0..3, "\\x4 lacks its two hexadecimal digits"),
        (r"\xg0", 0..2, "\\x lacks its two hexadecimal digits"),
        ("\\x4\u{e9}", 0..3, "\\x4 lacks its two hexadecimal digits"),
        ("\u{e9}\\\u{e9}", 2..5, "\\\u{e9} is no escape"),
        (r"\n\0", 2..4, "\\0 is no escape"),
    ] {
        let what = what.to_owned();
        assert_eq!(unescape(text), Err(BadEscape { at, what }), "{text}");
    }
}

/// Feeds the pieces one after the other, as a reader would.
fn fed(expected: &[u8], pieces: &[&[u8]]) -> (Match, (usize, usize)) {
    let mut expectation = Expectation::new(expected);
    let mut last = Match::NeedMore;
    for piece in pieces {
        last = expectation.feed(piece);
        if last != Match::NeedMore {
            break;
        }
    }
    (last, expectation.progress())
}

#[test]
fn an_answer_is_judged_alike_at_every_split_point() {
    let differs = "byte 4 is 0x45 'E', expected 0x4f 'O'";
    for (answer, verdict) in [
        (b"+PONG\r\n".as_slice(), None),
        (b"+PONG\r\nand more", None),
        (b"+PPENG", Some("byte 3 is 0x50 'P', expected 0x4f 'O'")),
        (b"+PONG\n", Some("byte 6 is 0x0a, expected 0x0d")),
        (b"-ERR no", Some("byte 1 is 0x2d '-', expected 0x2b '+'")),
    ] {
        for split in 0..=answer.len() {
            let (begin, end) = answer.split_at(split);
            let (last, _) = fed(b"+PONG\r\n", &[begin, end]);
            match verdict {
                None => assert!(matches!(last, Match::Met(_)), "{split}: {last:?}"),
                Some(text) => assert_eq!(last, Match::Differs(text.to_owned()), "{split}"),
            }
        }
    }
    assert_eq!(
        fed(b"abcOK", &[b"ab", b"cE"]).0,
        Match::Differs(differs.to_owned())
    );
}

#[test]
fn what_belongs_to_the_answer_is_told_from_what_follows_it() {
    let mut expectation = Expectation::new(b"220 ");
    assert_eq!(expectation.feed(b"22"), Match::NeedMore);
    assert_eq!(expectation.progress(), (2, 4));
    assert_eq!(expectation.feed(b"0 ready"), Match::Met(2));
    assert_eq!(Expectation::new(b"").feed(b""), Match::Met(0));
}

proptest! {
    #[test]
    fn any_bytes_survive_their_escaped_form(bytes: Vec<u8>) {
        let text = escape(&bytes);
        prop_assert!(!text.chars().any(char::is_control));
        prop_assert_eq!(unescape(&text), Ok(bytes));
    }

    #[test]
    fn no_text_makes_unescape_panic(text in "[\\\\xrn0-9a-f\u{e9}]{0,12}") {
        if let Err(bad) = unescape(&text) {
            prop_assert_eq!(&text[bad.at.clone()][..1], "\\");
        }
    }

    #[test]
    fn an_expectation_is_met_exactly_by_its_own_beginning(
        expected in prop::collection::vec(0..3_u8, 0..6),
        answer in prop::collection::vec(0..3_u8, 0..8),
        split: prop::sample::Index,
    ) {
        let (begin, end) = answer.split_at(split.index(answer.len() + 1));
        let (last, _) = fed(&expected, &[begin, end]);
        let met = matches!(last, Match::Met(_));
        prop_assert_eq!(met, answer.starts_with(&expected));
        let hopeless = !expected.starts_with(&answer) && !met;
        prop_assert_eq!(matches!(last, Match::Differs(_)), hopeless);
    }
}
