//! Programs that answer, fail, flood, hang, and leave others behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::config::settings::SendProxy;
use crate::probe::runner::{ProbeKind, ProbeResult, ProbeSpec, run};

const AMPLE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

fn spec(words: &[&str], timeout: Duration) -> ProbeSpec {
    ProbeSpec {
        target: Endpoint::Tcp("192.0.2.7:80".parse().unwrap()),
        kind: ProbeKind::Exec(Program {
            words: words.iter().map(|&word| word.to_owned()).collect(),
            pool: "web".to_owned(),
            backend: "a".to_owned(),
        }),
        send_proxy: SendProxy::Off,
        timeout,
    }
}

async fn shell(script: &str, timeout: Duration) -> ProbeResult {
    run(&spec(&["/bin/sh", "-c", script], timeout)).await
}

fn failed(result: &ProbeResult) -> &str {
    assert!(!result.passed && !result.local, "{result:?}");
    &result.detail
}

#[tokio::test]
async fn the_exit_status_is_the_verdict_and_the_last_line_the_detail() {
    let result = shell("echo first; echo fine; echo", AMPLE).await;
    assert!(result.passed, "{result:?}");
    assert_eq!(result.detail, "fine");
    assert_eq!(shell("exit 0", AMPLE).await.detail, "exit status 0");
    for (script, detail) in [
        ("exit 3", "exit status 3"),
        ("echo disk full; exit 3", "exit status 3: disk full"),
        (
            "echo checked; echo refused >&2; exit 1",
            "exit status 1: refused",
        ),
        ("kill -TERM $$", "killed by SIGTERM"),
        ("echo oops; kill -SEGV $$", "killed by SIGSEGV: oops"),
    ] {
        assert_eq!(failed(&shell(script, AMPLE).await), detail, "{script}");
    }
}

#[tokio::test]
async fn arguments_reach_the_program_as_they_are() {
    let words = ["/bin/echo", "$HOME", "a b", ";exit 1"];
    assert_eq!(run(&spec(&words, AMPLE)).await.detail, "$HOME a b ;exit 1");
}

#[tokio::test]
async fn the_environment_is_clean_but_for_what_it_must_know() {
    let mut spec = spec(
        &[
            "/bin/sh",
            "-c",
            "/usr/bin/env | grep -v '^PWD=\\|^_=\\|^SHLVL=' | sort | tr '\\n' ' '",
        ],
        AMPLE,
    );
    let detail = run(&spec).await.detail;
    let (variables, path) = detail.split_once(" PATH=").unwrap();
    assert_eq!(
        variables,
        "LBD_ADDRESS=192.0.2.7:80 LBD_BACKEND=a LBD_HOST=192.0.2.7 LBD_POOL=web LBD_PORT=80"
    );
    assert!(!path.contains('='), "{path}");
    spec.target = Endpoint::Unix("/run/x".into());
    let detail = run(&spec).await.detail;
    assert!(
        detail.starts_with("LBD_ADDRESS=unix:/run/x LBD_BACKEND=a LBD_POOL=web PATH="),
        "{detail}"
    );
}

#[tokio::test]
async fn a_program_that_cannot_be_started_fails_and_says_why() {
    let missing = run(&spec(&["/no/such/program"], AMPLE)).await;
    assert_eq!(
        failed(&missing),
        "cannot be started: no such file or directory"
    );
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    fs::write(&plain, "text").unwrap();
    let refused = run(&spec(&[plain.to_str().unwrap()], AMPLE)).await;
    assert_eq!(failed(&refused), "cannot be started: permission denied");
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o755)).unwrap();
    let odd = run(&spec(&[plain.to_str().unwrap()], AMPLE)).await;
    assert_eq!(failed(&odd), "cannot be started: exec format error");
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_at_the_deadline_with_its_whole_group() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let script = format!(
        "trap '' TERM; sleep 1000 & echo $$ $! > {pids}; echo waiting; wait; wait",
        pids = pids.display()
    );
    let result = shell(&script, SHORT).await;
    assert_eq!(failed(&result), "timeout after 300ms, killed: waiting");
    assert!(result.took >= SHORT && result.took < AMPLE);
    all_gone(&pids).await;
}

#[tokio::test]
async fn what_a_program_leaves_running_is_killed_and_does_not_delay_the_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    // It keeps the output open.
    let script = format!("sleep 1000 & echo $! > {}; echo done", pids.display());
    let begun = Instant::now();
    let result = shell(&script, AMPLE).await;
    assert!(begun.elapsed() < AMPLE / 2, "{:?}", begun.elapsed());
    assert!(result.passed, "{result:?}");
    assert_eq!(result.detail, "done");
    all_gone(&pids).await;
}

#[tokio::test]
async fn a_dropped_probe_leaves_no_program_behind() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let script = format!("sleep 1000 & echo $$ $! > {}; wait", pids.display());
    let started = async {
        while !pids.exists() || fs::read(&pids).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        result = shell(&script, AMPLE) => panic!("{result:?}"),
        () = started => {}
    }
    all_gone(&pids).await;
}

/// Waits until no process that the file names is alive. One that nobody has waited for yet is not.
async fn all_gone(pids: &Path) {
    let pids = fs::read_to_string(pids).unwrap();
    let begun = Instant::now();
    let alive = |pid: &&str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        !(state.is_empty() || state.starts_with('Z') || state.starts_with('X'))
    };
    assert!(!pids.trim().is_empty());
    while let Some(pid) = pids.split_whitespace().find(alive) {
        assert!(begun.elapsed() < AMPLE, "{pid} is alive");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_flood_of_output_is_read_and_forgotten() {
    // 40 MB on both streams, then an end that is seen.
    let script = "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; echo; echo end >&2";
    let result = shell(script, AMPLE).await;
    assert!(result.passed, "{result:?}");
    let mut tail = Tail::default();
    let mut flood = Some(tokio::io::AsyncReadExt::take(
        tokio::io::repeat(b'x'),
        1 << 22,
    ));
    tail.fill(&mut flood).await;
    assert_eq!(tail.0.len(), KEPT_BYTES);
    assert!(tail.0.capacity() < 4 * READ_BYTES, "{}", tail.0.capacity());

    let result = shell("yes", SHORT).await;
    assert_eq!(failed(&result), "timeout after 300ms, killed: y");
}

#[tokio::test]
async fn many_programs_at_once_each_get_their_own_end() {
    let probes = (0..40).map(|number| {
        tokio::spawn(async move {
            let script = format!("sleep 0.0{}; exit {number}", number % 7);
            (number, shell(&script, AMPLE).await)
        })
    });
    for probe in probes.collect::<Vec<_>>() {
        let (number, result) = probe.await.unwrap();
        assert_eq!(result.detail, format!("exit status {number}"));
    }
}

#[test]
fn the_last_line_with_text_is_shown_escaped_and_cut() {
    let line = |bytes: &[u8]| Tail(bytes.to_vec()).last_line();
    assert_eq!(line(b"first\nlast\n\n  \r\n").as_deref(), Some("last"));
    assert_eq!(line(b"\n \n"), None);
    assert_eq!(line(b"a\x1b[1m\xff").as_deref(), Some("a\\x1b[1m\\xff"));
    let long = line("\u{e9}".repeat(300).as_bytes()).unwrap();
    assert_eq!(long.len(), DETAIL_BYTES_MAX);
}

#[test]
fn signals_are_named() {
    assert_eq!(signal_name(9), "SIGKILL");
    assert_eq!(signal_name(64), "signal 64");
}
