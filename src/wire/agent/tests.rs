//! Agent lines, whole and in pieces.

use proptest::prelude::*;

use super::*;

fn answer(change: impl FnOnce(&mut Answer)) -> Answer {
    let mut answer = Answer::default();
    change(&mut answer);
    answer
}

fn down(reason: &str) -> Answer {
    answer(|answer| answer.serves = Some(Serves::Down(reason.to_owned())))
}

#[test]
fn each_word_says_what_it_says_in_haproxy() {
    let cases = [
        ("75%", answer(|a| a.percent = Some(75))),
        ("0%", answer(|a| a.percent = Some(0))),
        ("256%", answer(|a| a.percent = Some(256))),
        ("up", answer(|a| a.serves = Some(Serves::Up))),
        ("UP", answer(|a| a.serves = Some(Serves::Up))),
        ("down", down("down")),
        ("fail", down("fail")),
        ("failed", down("failed")),
        ("stopped", down("stopped")),
        ("down # disk full ", down("disk full")),
        ("down#disk, full", down("disk, full")),
        ("stopped #", down("stopped")),
        ("ready", answer(|a| a.wish = Some(AgentWish::Ready))),
        ("drain", answer(|a| a.wish = Some(AgentWish::Drain))),
        ("maint", answer(|a| a.wish = Some(AgentWish::Maintenance))),
        ("maxconn:30", answer(|a| a.max_connections = Some(30))),
        (
            "ready,up\t50%  maxconn:7",
            Answer {
                serves: Some(Serves::Up),
                wish: Some(AgentWish::Ready),
                percent: Some(50),
                max_connections: Some(7),
                unknown: None,
            },
        ),
        ("drain ready", answer(|a| a.wish = Some(AgentWish::Ready))),
        ("up # fine", answer(|a| a.serves = Some(Serves::Up))),
        ("", Answer::default()),
        (" , \t", Answer::default()),
    ];
    for (line, expected) in cases {
        assert_eq!(parse(line.as_bytes()), expected, "{line:?}");
    }
}

#[test]
fn words_that_say_nothing_are_told_and_the_others_count() {
    for (line, unknown) in [
        ("257%", "257%"),
        ("-1%", "-1%"),
        ("%", "%"),
        ("+5%", "+5%"),
        ("99999999999%", "99999999999%"),
        ("maxconn:", "maxconn:"),
        ("maxconn:-1", "maxconn:-1"),
        ("upp", "upp"),
        ("hello world", "hello"),
        ("\u{1}", "\\x01"),
    ] {
        let read = parse(line.as_bytes());
        assert_eq!(read.unknown.as_deref(), Some(unknown), "{line}");
        assert!(read.is_empty(), "{line}");
    }
    let read = parse(b"50% weight drain");
    assert_eq!(read.percent, Some(50));
    assert_eq!(read.wish, Some(AgentWish::Drain));
    assert_eq!(read.unknown.as_deref(), Some("weight"));
    assert!(!read.is_empty());
}

#[test]
fn a_reason_is_escaped_and_cut() {
    let line = [b"down #\x1b[31m".as_slice(), &[b'x'; 500]].concat();
    let Some(Serves::Down(reason)) = parse(&line).serves else {
        panic!("not down")
    };
    assert!(reason.starts_with("\\x1b[31mxxx"), "{reason}");
    assert_eq!(reason.chars().count(), REASON_CHARS_MAX);
}

#[test]
fn a_line_is_the_same_at_every_split_point() {
    for text in ["up 50%\nmore", "up 50%\r\nmore\n", "\r\nup 50%\r", "up 50%"] {
        for split in 0..=text.len() {
            let (begin, end) = text.as_bytes().split_at(split);
            let mut line = Line::default();
            let complete = line.feed(begin) || line.feed(end);
            assert_eq!(complete, text != "up 50%", "{text:?} at {split}");
            assert_eq!(line.bytes(), b"up 50%", "{text:?} at {split}");
        }
    }
}

#[test]
fn a_line_without_end_is_cut_at_its_limit() {
    let mut line = Line::default();
    assert!(!line.feed(&[b'x'; LINE_BYTES_MAX - 1]));
    assert!(line.feed(&[b'x'; 9999]));
    assert!(line.feed(b"y"));
    assert_eq!(line.bytes().len(), LINE_BYTES_MAX);
    let mut empty = Line::default();
    assert!(!empty.feed(&[b'\n'; 9999]));
    assert!(empty.bytes().is_empty());
}

proptest! {
    #[test]
    fn no_line_makes_the_parser_panic_and_percents_stay_in_bounds(bytes: Vec<u8>) {
        let read = parse(&bytes);
        prop_assert!(read.percent.is_none_or(|percent| percent <= PERCENT_MAX));
    }

    #[test]
    fn lines_of_its_own_words_do_not_either(
        line in "((up|down|drain|maint|[0-9]{0,4}%|maxconn:[0-9]{0,11}|#)[ ,\t]?){0,6}"
    ) {
        let _ = parse(line.as_bytes());
    }
}
