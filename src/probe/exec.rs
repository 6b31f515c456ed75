//! The probe that runs a program: no shell, nothing inherited, and nothing left of it at the end.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Once;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use super::connect::{Failure, describe};
use crate::base::addr::Endpoint;
use crate::sys::descriptors;
use crate::wire::script::escape;

/// So much of the end of each output stream is kept.
const KEPT_BYTES: usize = 1024;
const READ_BYTES: usize = 4 * 1024;
const DETAIL_BYTES_MAX: usize = 200;
const REST_TIMEOUT: Duration = Duration::from_millis(100);
/// A killed program that is stuck in the kernel is left to it.
const REAP_TIMEOUT: Duration = Duration::from_secs(1);
/// Where programs are looked for when this process has no PATH.
const PATH_USUAL: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program to run for a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its absolute path and its arguments.
    pub words: Vec<String>,
    pub pool: String,
    pub backend: String,
}

/// Runs the program until it exits or the time is over; then nothing of its process group is left.
/// A dropped future kills it as well.
pub(super) async fn run(
    program: &Program,
    target: &Endpoint,
    timeout: Duration,
) -> Result<String, Failure> {
    let children = signal(SignalKind::child()).map_err(|error| Failure {
        local: true,
        detail: format!("cannot be waited for: {}", describe(&error)),
    })?;
    // All that this process opens itself stays its own anyway.
    static OWN: Once = Once::new();
    OWN.call_once(descriptors::keep_from_programs);
    let mut child = command(program, target)?.spawn().map_err(|error| Failure {
        local: is_shortage(&error),
        detail: format!("cannot be started: {}", describe(&error)),
    })?;
    let process = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw)
        .expect("a child that was not waited for has a process id");
    // Dropped before the child: its number stays taken until then.
    let group = Group(process);
    let (mut out, mut err) = (Tail::default(), Tail::default());
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let ended = {
        let reading = async {
            tokio::join!(out.fill(&mut stdout), err.fill(&mut stderr));
            // The exit is what is waited for, with closed outputs or without.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            ended = tokio::time::timeout(timeout, exited(process, children)) => ended,
            () = reading => unreachable!("it never ends"),
        }
    };
    // What the program left running is killed while its number cannot be another's yet.
    drop(group);
    // What it wrote last may not have been read. Only who has left the group could write more.
    let rest = async { tokio::join!(out.fill(&mut stdout), err.fill(&mut stderr)) };
    let _maybe_elapsed = tokio::time::timeout(REST_TIMEOUT, rest).await;
    let status = tokio::time::timeout(REAP_TIMEOUT, child.wait()).await;
    match ended {
        Err(_elapsed) => Err(Failure::of_backend(format!(
            "timeout after {timeout:?}, killed{}",
            suffix(&[&out, &err])
        ))),
        Ok(Err(error)) => Err(Failure {
            local: true,
            detail: format!("cannot be waited for: {}", describe(&error)),
        }),
        Ok(Ok(())) => match status {
            Ok(Ok(status)) => judge(status, &out, &err),
            _ => Err(Failure::of_backend("exited, but cannot be reaped")),
        },
    }
}

fn command(program: &Program, target: &Endpoint) -> Result<Command, Failure> {
    let (path, arguments) = program
        .words
        .split_first()
        .ok_or_else(|| Failure::of_backend("no program"))?;
    let mut command = Command::new(path);
    command
        .args(arguments)
        .env_clear()
        .env(
            "PATH",
            std::env::var_os("PATH").unwrap_or_else(|| PATH_USUAL.into()),
        )
        .env("LBD_POOL", &program.pool)
        .env("LBD_BACKEND", &program.backend)
        .env("LBD_ADDRESS", target.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Endpoint::Tcp(addr) = target {
        command
            .env("LBD_HOST", addr.ip().to_string())
            .env("LBD_PORT", addr.port().to_string());
    }
    Ok(command)
}

/// Out of descriptors, processes or memory: says nothing of the backend.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::AGAIN, Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    error
        .raw_os_error()
        .is_some_and(|code| shortages.contains(&Errno::from_raw_os_error(code)))
}

/// Waits for the exit without taking its status: the number of the process stays its own.
/// `children` tells of the end of any child from before this one began.
async fn exited(process: Pid, mut children: Signals) -> io::Result<()> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    while waitid(WaitId::Pid(process), options)?.is_none() {
        children.recv().await;
    }
    Ok(())
}

/// Kills the whole process group when it goes out of scope.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // Nobody left is fine too.
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

/// The last bytes of a stream.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    /// Reads to the end. However much it is, no more than the last bytes are kept.
    async fn fill(&mut self, stream: &mut Option<impl AsyncRead + Unpin>) {
        let Some(stream) = stream else { return };
        let mut buffer = vec![0; READ_BYTES];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            self.0.extend_from_slice(&buffer[..count]);
            let over = self.0.len().saturating_sub(KEPT_BYTES);
            self.0.drain(..over);
        }
    }

    /// The last line with something in it, escaped and cut.
    fn last_line(&self) -> Option<String> {
        let mut lines = self.0.rsplit(|&byte| byte == b'\n' || byte == b'\r');
        let line =
            lines.find_map(|line| Some(line.trim_ascii()).filter(|line| !line.is_empty()))?;
        let mut text = escape(line);
        while text.len() > DETAIL_BYTES_MAX {
            text.pop();
        }
        Some(text)
    }
}

/// `: text`, of the first stream that has any.
fn suffix(streams: &[&Tail]) -> String {
    let line = streams.iter().find_map(|stream| stream.last_line());
    line.map(|line| format!(": {line}")).unwrap_or_default()
}

fn judge(status: ExitStatus, out: &Tail, err: &Tail) -> Result<String, Failure> {
    if status.success() {
        let line = out.last_line().or_else(|| err.last_line());
        return Ok(line.unwrap_or_else(|| "exit status 0".to_owned()));
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by {}", signal_name(signal)),
        (None, None) => "ended".to_owned(),
    };
    // Complaints first.
    Err(Failure::of_backend(how + &suffix(&[err, out])))
}

fn signal_name(signal: i32) -> String {
    let names = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (5, "SIGTRAP"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (11, "SIGSEGV"),
        (13, "SIGPIPE"),
        (14, "SIGALRM"),
        (15, "SIGTERM"),
        (24, "SIGXCPU"),
        (25, "SIGXFSZ"),
        (31, "SIGSYS"),
    ];
    names
        .iter()
        .find(|(number, _)| *number == signal)
        .map_or_else(
            || format!("signal {signal}"),
            |(_, name)| (*name).to_owned(),
        )
}

#[cfg(test)]
mod tests;
