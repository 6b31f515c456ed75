//! The access log as a whole, on real files and pipes.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use rustix::fs::{CWD, Mode as FileMode, OFlags, mkfifoat};

use super::*;
use crate::base::addr::ClientAddr;
use crate::base::ending::{Phase, RelayPath, Termination};

fn record(detail: &str) -> Record<'_> {
    Record {
        listener: "web",
        client: ClientAddr::Unix,
        pool: "web",
        backend: "a",
        sni: "",
        alpn: "",
        tls: "",
        phase: Phase::Relay,
        termination: Termination::ClientClosed,
        detail,
        queue: Duration::ZERO,
        connect: None,
        first_byte: None,
        duration: Duration::ZERO,
        bytes_to_backend: 0,
        bytes_to_client: 0,
        tries: 1,
        path: RelayPath::Copy,
        failed_tries: &[],
        passed_on_by: None,
        certificate: None,
        id: 0,
    }
}

fn write(lines: &mut LineWriter, detail: &str) {
    lines.write(&record(detail), SystemTime::now());
    lines.flush();
}

fn details(text: &str) -> Vec<&str> {
    text.lines()
        .map(|line| {
            assert!(line.starts_with("time=2"), "torn: {line}");
            line.split_once(" detail=").expect("whole lines").1
        })
        .collect()
}

fn file(path: &Path) -> Target {
    Target::File(path.to_owned())
}

/// A FIFO and a target that writes to it.
fn fifo(dir: &tempfile::TempDir) -> (PathBuf, Target) {
    let path = dir.path().join("fifo");
    mkfifoat(CWD, &path, FileMode::RUSR | FileMode::WUSR).unwrap();
    (path.clone(), Target::File(path))
}

fn open_reader(path: &Path) -> File {
    let non_blocking = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(non_blocking)
        .open(path)
        .unwrap();
    rustix::io::ioctl_fionbio(&file, false).unwrap();
    file
}

fn lose_some(log: &AccessLog, lines: &mut LineWriter) -> u64 {
    let mut written = 0;
    while log.lost() == 0 {
        write(lines, &format!("line-{written}"));
        written += 1;
        assert!(written < 1_000_000, "nothing bounds the lines");
    }
    written
}

#[test]
fn what_was_flushed_before_the_end_is_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = AccessLog::open(&file(&path), Format::Text).unwrap();
    let mut lines = log.line_writer();
    write(&mut lines, "one");
    lines.write(&record("two"), SystemTime::now());
    drop(lines);
    log.shut_down();
    assert_eq!(details(&fs::read_to_string(path).unwrap()), ["one", "two"]);
}

#[test]
fn a_log_that_is_off_takes_nothing_and_can_be_turned_on_and_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = AccessLog::open(&Target::Off, Format::Text).unwrap();
    let mut lines = log.line_writer();
    write(&mut lines, "off");
    log.replace(&file(&path), Format::Text).unwrap();
    write(&mut lines, "on");
    log.replace(&Target::Off, Format::Text).unwrap();
    write(&mut lines, "off");
    drop(lines);
    log.shut_down();
    assert_eq!(details(&fs::read_to_string(path).unwrap()), ["on"]);
}

#[test]
fn lines_of_four_threads_arrive_whole_and_in_each_threads_order() {
    const LINES: usize = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = AccessLog::open(&file(&path), Format::Text).unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let mut lines = log.line_writer();
            scope.spawn(move || {
                for line in 0..LINES {
                    lines.write(&record(&format!("{thread}-{line}")), SystemTime::now());
                    if line % 7 == 0 {
                        lines.flush();
                        // Slower than the writer, so that none is dropped.
                        while lines.lane.bytes() > 65_536 {
                            thread::yield_now();
                        }
                    }
                }
            });
        }
    });
    assert_eq!(log.lost(), 0);
    log.shut_down();
    let text = fs::read_to_string(path).unwrap();
    let mut next = [0; 4];
    for detail in details(&text) {
        let (thread, line) = detail.split_once('-').unwrap();
        let thread: usize = thread.parse().unwrap();
        assert_eq!(line.parse::<usize>().unwrap(), next[thread]);
        next[thread] += 1;
    }
    assert_eq!(next, [LINES; 4]);
}

#[test]
fn after_a_rename_and_a_reopen_lines_go_to_the_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (
        dir.path().join("access.log"),
        dir.path().join("access.log.1"),
    );
    let log = AccessLog::open(&file(&path), Format::Text).unwrap();
    let mut lines = log.line_writer();
    write(&mut lines, "before");
    fs::rename(&path, &old).unwrap();
    log.reopen().unwrap();
    write(&mut lines, "after");
    drop(lines);
    log.shut_down();
    let (old, new) = (
        fs::read_to_string(old).unwrap(),
        fs::read_to_string(path).unwrap(),
    );
    let all = [details(&old), details(&new)].concat();
    assert_eq!(all, ["before", "after"]);
    assert_eq!(details(&new).last(), Some(&"after"));
}

#[test]
fn a_file_that_cannot_be_reopened_or_replaced_leaves_the_old_one_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let sub = dir.path().join("sub");
    fs::create_dir(&sub).unwrap();
    let path = sub.join("access.log");
    let log = AccessLog::open(&file(&path), Format::Text).unwrap();
    let mut lines = log.line_writer();
    let moved = dir.path().join("moved");
    fs::rename(&sub, &moved).unwrap();
    assert_eq!(log.reopen().unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(log.replace(&file(dir.path()), Format::Json).is_err());
    write(&mut lines, "kept");
    drop(lines);
    log.shut_down();
    let text = fs::read_to_string(moved.join("access.log")).unwrap();
    assert_eq!(details(&text), ["kept"]);
}

#[test]
fn a_change_of_format_puts_no_two_formats_into_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let (text, json) = (dir.path().join("text.log"), dir.path().join("json.log"));
    let log = AccessLog::open(&file(&text), Format::Text).unwrap();
    let mut lines = log.line_writer();
    for _ in 0..100 {
        lines.write(&record("old"), SystemTime::now());
    }
    log.replace(&file(&json), Format::Json).unwrap();
    for _ in 0..100 {
        lines.write(&record("new"), SystemTime::now());
    }
    drop(lines);
    log.shut_down();
    let (text, json) = (
        fs::read_to_string(text).unwrap(),
        fs::read_to_string(json).unwrap(),
    );
    assert_eq!(details(&text), vec!["old"; 100]);
    assert_eq!(json.lines().count(), 100);
    assert!(
        json.lines()
            .all(|line| line.starts_with('{') && line.ends_with("\"new\"}"))
    );
}

#[test]
fn a_fifo_that_nobody_reads_costs_lines_but_no_time_and_resumes_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (path, target) = fifo(&dir);
    let log = AccessLog::open(&target, Format::Text).unwrap();
    let mut lines = log.line_writer();
    let written = lose_some(&log, &mut lines);

    let mut reader = BufReader::new(open_reader(&path));
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    assert_eq!(details(&first), ["line-0"]);
    let rest = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    // Written until one gets through the lane, which the reader empties by now.
    let mut later = 0;
    let mut lost = log.lost();
    loop {
        write(&mut lines, "later");
        later += 1;
        if std::mem::replace(&mut lost, log.lost()) == log.lost() {
            break;
        }
        thread::yield_now();
    }
    drop(lines);
    let lost = log.lost();
    log.shut_down();
    let text = rest.join().unwrap();
    let details = details(&text);
    assert_eq!(details.last(), Some(&"later"));
    assert_eq!(1 + details.len() as u64 + lost, written + later);
}

#[test]
fn a_line_longer_than_the_pipes_piece_arrives_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (path, target) = fifo(&dir);
    let log = AccessLog::open(&target, Format::Text).unwrap();
    let mut reader = open_reader(&path);
    let mut lines = log.line_writer();
    let long: Vec<_> = (b'a'..=b'z')
        .map(|c| char::from(c).to_string().repeat(10_000))
        .collect();
    for detail in &long {
        write(&mut lines, detail);
    }
    drop(lines);
    let shut_down = thread::spawn(move || log.shut_down());
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    shut_down.join().unwrap();
    assert_eq!(details(&text), long);
}

#[test]
fn a_reader_that_leaves_does_not_end_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (path, target) = fifo(&dir);
    let first = open_reader(&path);
    let log = AccessLog::open(&target, Format::Text).unwrap();
    drop(first);
    let mut lines = log.line_writer();
    lose_some(&log, &mut lines);
    let mut second = BufReader::new(open_reader(&path));
    let mut line = String::new();
    second.read_line(&mut line).unwrap();
    assert_eq!(details(&line), ["line-0"]);
}

#[test]
fn a_full_disk_costs_lines_only_and_another_target_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = AccessLog::open(&file(Path::new("/dev/full")), Format::Text).unwrap();
    let mut lines = log.line_writer();
    lose_some(&log, &mut lines);
    log.replace(&file(&path), Format::Text).unwrap();
    // The lane is free for the new mode as soon as the writer gave up the old lines.
    while fs::read_to_string(&path).unwrap().is_empty() {
        write(&mut lines, "free");
        thread::yield_now();
    }
    drop(lines);
    log.shut_down();
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(
        details(&text).into_iter().collect::<HashSet<_>>(),
        HashSet::from(["free"])
    );
}

#[test]
fn the_end_waits_no_longer_than_its_bound_for_a_blocked_fifo() {
    let dir = tempfile::tempdir().unwrap();
    let (_path, target) = fifo(&dir);
    let log = AccessLog::open(&target, Format::Text).unwrap();
    let mut lines = log.line_writer();
    lose_some(&log, &mut lines);
    drop(lines);
    let shared = Arc::clone(&log.shared);
    let before = Instant::now();
    log.shut_down();
    assert!(before.elapsed() < Duration::from_secs(4));
    // The thread gives up by itself, at the same time but for its last count.
    while Arc::strong_count(&shared) > 1 {
        assert!(
            before.elapsed() < Duration::from_secs(20),
            "the thread does not end"
        );
        thread::yield_now();
    }
}

#[test]
fn a_torn_line_is_completed_where_it_began_or_begins_again_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old");
    let old = Sink::open(&file(&path)).unwrap().unwrap();
    let lines = b"first\nsecond\nthird\n";
    assert_eq!(writer::leave(&old, lines, 6), 6);
    assert_eq!(writer::leave(&old, lines, 8), 13);
    assert_eq!(fs::read_to_string(&path).unwrap(), "cond\n");
    let full = Sink::open(&file(Path::new("/dev/full"))).unwrap().unwrap();
    assert_eq!(writer::leave(&full, lines, 8), 6);
    assert_eq!(writer::leave(&full, lines, 3), 0);
}
