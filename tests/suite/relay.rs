//! One list of scenarios over every path that bytes can take: copied, spliced, and changing
//! between the two. Each is played by scripted peers and judged by what both saw and by the
//! session's record.

use std::time::Duration;

use crate::harness::balancer::{Balancer, Setup, check_transfer};
use crate::harness::peer::{self, Backend, End};
use crate::harness::script::{Script, Send, Take};
use crate::harness::sockets::Options;

/// How a stream's bytes come, which decides the path they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Small messages: copied.
    Small,
    /// More than any buffer holds: spliced.
    Bulk,
    /// Both by turns.
    Alternating,
}

const SHAPES: [Shape; 3] = [Shape::Small, Shape::Bulk, Shape::Alternating];

/// Enough to fill every buffer on the way several times, so that reads come full.
const BULK_BYTES: u64 = 24 * 1024 * 1024;

/// An answer that fits one segment.
const ANSWER_BYTES: u64 = 1000;

impl Shape {
    fn stream(self) -> Vec<Send> {
        let messages = Send::Sliced {
            bytes: 3000,
            piece: 100,
            gap: Duration::from_micros(300),
        };
        match self {
            Shape::Small => vec![messages],
            Shape::Bulk => vec![Send::Bytes(BULK_BYTES)],
            Shape::Alternating => {
                let half = Send::Bytes(BULK_BYTES / 2);
                vec![
                    half,
                    Send::Pause(Duration::from_millis(30)),
                    messages,
                    half,
                    messages,
                ]
            }
        }
    }

    fn bytes(self) -> u64 {
        Script::new(self.stream(), []).bytes()
    }

    fn path(self) -> &'static str {
        if self == Shape::Small {
            "copy"
        } else {
            "splice"
        }
    }
}

/// What must come of a scenario.
struct Outcome {
    termination: &'static str,
    client: End,
    backend: End,
    /// Every byte of both streams arrives.
    whole: bool,
}

struct Scenario {
    name: &'static str,
    client: Script,
    backend: Script,
    outcome: Outcome,
}

impl Scenario {
    fn play(&self, shape: Shape, setup: impl FnOnce(Setup) -> Setup) {
        let told = format!("{} ({shape:?})", self.name);
        eprintln!("playing: {told}");
        let backend = Backend::new(&self.backend);
        let balancer = Balancer::start(&setup(Setup::over(&[backend.address])));
        let client = peer::client(balancer.address(), &self.client);
        let served = backend.seen_once();
        let record = balancer.record_of(client.address);
        check_transfer(&client, &served, &record);
        let ends = record.termination();
        let either = self.outcome.termination == EITHER && ends.ends_with("_closed");
        assert!(
            either || ends == self.outcome.termination,
            "{told}: {record:?}"
        );
        assert_eq!(
            client.end, self.outcome.client,
            "{told}: the client's end, {client:?}"
        );
        assert_eq!(
            served.end, self.outcome.backend,
            "{told}: the backend's end, {served:?}"
        );
        if self.outcome.whole {
            assert_eq!(client.taken, self.backend.bytes(), "{told}: {client:?}");
            assert_eq!(served.taken, self.client.bytes(), "{told}: {served:?}");
            assert_eq!(record.text("path"), shape.path(), "{told}: {record:?}");
        }
    }
}

/// Whoever closes first.
const EITHER: &str = "";

fn in_order(termination: &'static str) -> Outcome {
    Outcome {
        termination,
        client: End::Fin,
        backend: End::Fin,
        whole: true,
    }
}

/// A stream followed by something.
fn then(mut stream: Vec<Send>, last: &[Send]) -> Vec<Send> {
    stream.extend(last);
    stream
}

/// A reader that lets buffers fill up first.
const LATE: Take = Take::Pause(Duration::from_millis(100));

fn half_closes(shape: Shape) -> Vec<Scenario> {
    let answer = Send::Bytes(ANSWER_BYTES);
    vec![
        Scenario {
            name: "the client closes its half, then the backend answers",
            client: Script::new(then(shape.stream(), &[Send::Fin]), [Take::ToEnd]),
            backend: Script::new([Send::AwaitEnd, answer, Send::Fin], [LATE, Take::ToEnd]),
            outcome: in_order("client_closed"),
        },
        Scenario {
            name: "the client closes its half, then the backend answers with the stream",
            client: Script::new([answer, Send::Fin], [LATE, Take::ToEnd]),
            backend: Script::new(
                [vec![Send::AwaitEnd], then(shape.stream(), &[Send::Fin])].concat(),
                [Take::ToEnd],
            ),
            outcome: in_order("client_closed"),
        },
        Scenario {
            name: "the backend closes its half, then the client uploads",
            client: Script::new(
                [vec![Send::AwaitEnd], then(shape.stream(), &[Send::Fin])].concat(),
                [Take::ToEnd],
            ),
            backend: Script::new([answer, Send::Fin], [LATE, Take::ToEnd]),
            outcome: in_order("backend_closed"),
        },
        Scenario {
            name: "both send at once, and the backend closes first",
            client: Script::new(
                then(shape.stream(), &[Send::AwaitEnd, Send::Fin]),
                [LATE, Take::ToEnd],
            ),
            backend: Script::new(then(shape.stream(), &[Send::Fin]), [LATE, Take::ToEnd]),
            outcome: in_order("backend_closed"),
        },
    ]
}

fn resets(shape: Shape) -> Vec<Scenario> {
    let reset_by = |termination, client, backend| Outcome {
        termination,
        client,
        backend,
        whole: false,
    };
    let all = shape.bytes();
    vec![
        Scenario {
            name: "the backend resets when all it sent has arrived",
            client: Script::new([Send::Bytes(10)], [LATE, Take::ToEnd]),
            // The client has it all only some time after the last byte was sent.
            backend: Script::new(
                then(
                    shape.stream(),
                    &[Send::Pause(Duration::from_millis(400)), Send::Reset],
                ),
                [Take::ToEnd],
            ),
            outcome: reset_by("backend_reset", End::Reset, End::Reset),
        },
        Scenario {
            name: "the backend resets in the middle",
            client: Script::new([Send::Bytes(10)], [LATE, Take::ToEnd]),
            backend: Script::new(then(shape.stream(), &[Send::Reset]), [Take::ToEnd]),
            outcome: reset_by("backend_reset", End::Reset, End::Reset),
        },
        Scenario {
            name: "the client resets in the middle of its upload",
            client: Script::new(then(shape.stream(), &[Send::Reset]), [Take::ToEnd]),
            backend: Script::new([], [LATE, Take::ToEnd]),
            outcome: reset_by("client_reset", End::Reset, End::Reset),
        },
        Scenario {
            name: "the client resets in the middle of its download",
            client: Script::new(
                [Send::Bytes(1), Send::AwaitTaken(all / 2), Send::Reset],
                [Take::ToEnd],
            ),
            backend: Script::new(then(shape.stream(), &[Send::AwaitEnd]), [Take::ToEnd]),
            outcome: reset_by("client_reset", End::Reset, End::Reset),
        },
        Scenario {
            name: "the client closes with the backend's bytes unread",
            // The pause lets some arrive that is not read.
            client: Script::new(
                [
                    Send::Bytes(1),
                    Send::AwaitTaken(all / 2),
                    Send::Pause(Duration::from_millis(200)),
                ],
                [Take::Bytes(all / 2)],
            ),
            backend: Script::new(then(shape.stream(), &[Send::AwaitEnd]), [Take::ToEnd]),
            outcome: reset_by("client_reset", End::Unseen, End::Reset),
        },
    ]
}

#[test]
fn half_closes_lose_no_byte_on_any_path() {
    for shape in SHAPES {
        half_closes(shape)
            .iter()
            .for_each(|scenario| scenario.play(shape, |setup| setup));
    }
}

#[test]
fn a_reset_is_a_reset_to_the_other_side_on_any_path() {
    for shape in SHAPES {
        for scenario in resets(shape) {
            scenario.play(shape, |setup| setup);
        }
    }
}

#[test]
fn one_worker_alone_serves_every_path() {
    for shape in SHAPES {
        for scenario in half_closes(shape) {
            scenario.play(shape, |setup| Setup {
                workers: 1,
                ..setup
            });
        }
    }
}

#[test]
fn bytes_and_a_fin_in_one_segment_arrive_with_both() {
    for bytes in [1, 100, 60_000] {
        Scenario {
            name: "from the client",
            client: Script::new([Send::BytesAndFin(bytes)], [Take::ToEnd]),
            backend: Script::new([Send::AwaitEnd, Send::Bytes(3), Send::Fin], [Take::ToEnd]),
            outcome: in_order("client_closed"),
        }
        .play(Shape::Small, |setup| setup);
        Scenario {
            name: "from the backend",
            client: Script::new([Send::AwaitEnd, Send::Bytes(3), Send::Fin], [Take::ToEnd]),
            backend: Script::new([Send::BytesAndFin(bytes)], [Take::ToEnd]),
            outcome: in_order("backend_closed"),
        }
        .play(Shape::Small, |setup| setup);
    }
}

#[test]
fn bytes_and_a_reset_right_behind_end_in_a_reset() {
    for bytes in [1, 100, 60_000] {
        Scenario {
            name: "from the backend",
            client: Script::new([Send::Bytes(1)], [Take::ToEnd]),
            backend: Script::new([Send::Bytes(bytes), Send::Reset], [Take::ToEnd]),
            outcome: Outcome {
                termination: "backend_reset",
                client: End::Reset,
                backend: End::Reset,
                whole: false,
            },
        }
        .play(Shape::Small, |setup| setup);
    }
}

#[test]
fn one_byte_each_way_is_a_session_like_any_other() {
    Scenario {
        name: "one byte",
        client: Script::new([Send::Bytes(1)], [Take::ToEnd]),
        backend: Script::new(
            [Send::AwaitTaken(1), Send::Bytes(1), Send::Fin],
            [Take::Bytes(1)],
        ),
        outcome: Outcome {
            termination: "backend_closed",
            client: End::Fin,
            backend: End::Unseen,
            whole: true,
        },
    }
    .play(Shape::Small, |setup| setup);
}

#[test]
fn a_dribble_of_single_bytes_arrives_whole_both_ways() {
    let dribble = Send::Sliced {
        bytes: 2000,
        piece: 1,
        gap: Duration::from_micros(50),
    };
    Scenario {
        name: "dribble",
        client: Script::new([dribble, Send::Fin], [Take::ToEnd]),
        backend: Script::new([dribble, Send::AwaitEnd, Send::Fin], [Take::ToEnd]),
        outcome: in_order("client_closed"),
    }
    .play(Shape::Small, |setup| setup);
}

#[test]
fn a_long_transfer_arrives_whole_each_way() {
    let bytes: u64 = if cfg!(debug_assertions) {
        96 << 20
    } else {
        1 << 30
    };
    Scenario {
        name: "long",
        client: Script::new([Send::Bytes(bytes), Send::Fin], [LATE, Take::ToEnd]),
        backend: Script::new(
            [Send::Bytes(bytes), Send::AwaitEnd, Send::Fin],
            [LATE, Take::ToEnd],
        ),
        outcome: in_order("client_closed"),
    }
    .play(Shape::Bulk, |setup| setup);
}

/// C11: a pipe has room for so many segments, however small they are.
#[test]
fn a_pipe_that_is_full_of_small_segments_stalls_nobody() {
    let segments = Send::Sliced {
        bytes: 300_000,
        piece: 100,
        gap: Duration::ZERO,
    };
    let bulk = Send::Bytes(BULK_BYTES / 3);
    let stream = [bulk, segments, bulk, segments, Send::Fin];
    Scenario {
        name: "small segments",
        client: Script::new(stream, [LATE, Take::ToEnd]),
        backend: Script::new(stream, [LATE, Take::ToEnd]),
        outcome: in_order(EITHER),
    }
    .play(Shape::Bulk, |setup| setup);
}

/// Small buffers at the reader, so that what it does not read stays with the balancer.
const SMALL_BUFFER: Options = Options {
    receive_buffer: Some(8192),
    send_buffer: None,
    source: None,
    connect_timeout: None,
};

#[test]
fn a_slow_reader_on_either_side_gets_everything() {
    let paced = Take::Paced {
        bytes: 3 << 20,
        piece: 4096,
        gap: Duration::from_micros(200),
    };
    let script = Script::new([Send::Bytes(8 << 20), Send::Fin], [Take::ToEnd]);
    let slow = Script::new([Send::AwaitEnd, Send::Fin], [paced, Take::ToEnd]);

    let backend = Backend::new(&script);
    let balancer = Balancer::over(&[backend.address]);
    let client = peer::client_with(balancer.address(), SMALL_BUFFER, &slow);
    check_transfer(
        &client,
        &backend.seen_once(),
        &balancer.record_of(client.address),
    );
    assert_eq!((client.taken, client.end), (8 << 20, End::Fin));

    let backend = Backend::with(SMALL_BUFFER, &slow);
    let balancer = Balancer::over(&[backend.address]);
    let client = peer::client(balancer.address(), &script);
    let served = backend.seen_once();
    check_transfer(&client, &served, &balancer.record_of(client.address));
    assert_eq!((served.taken, served.end), (8 << 20, End::Fin));
}
