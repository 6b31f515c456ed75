//! Where lines go: one open descriptor, written without waiting longer than asked.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use super::Target;

/// An open target.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    /// Regular files take everything at once. Pipes, sockets and terminals may block, and cannot be
    /// made non-blocking: that flag would be shared with every process that holds them.
    is_regular: bool,
}

impl Sink {
    /// Opens the target; nothing for [`Target::Off`].
    pub(super) fn open(target: &Target) -> io::Result<Option<Sink>> {
        let file = match target {
            Target::Off => return Ok(None),
            Target::Stdout => File::from(io::stdout().as_fd().try_clone_to_owned()?),
            Target::Stderr => File::from(io::stderr().as_fd().try_clone_to_owned()?),
            Target::File(path) => open_file(path)?,
        };
        let is_regular = file.metadata()?.is_file();
        Ok(Some(Sink { file, is_regular }))
    }

    /// Writes some of `lines` and says how much, or `WouldBlock` when nothing could be written
    /// within `patience`. Whole lines at a time as far as the kernel and their length allow.
    pub(super) fn write(&self, lines: &[u8], patience: Duration) -> io::Result<usize> {
        let lines = if self.is_regular {
            lines
        } else {
            self.await_room(patience)?;
            piece(lines)
        };
        match (&self.file).write(lines) {
            Ok(0) if !lines.is_empty() => Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            other => other,
        }
    }

    fn await_room(&self, patience: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(patience).ok();
        let mut wanted = [PollFd::new(&self.file, PollFlags::OUT)];
        match poll(&mut wanted, timeout.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Err(io::ErrorKind::WouldBlock.into()),
            Ok(_) => Ok(()), // an error or a hang-up is told by the write
            Err(error) => Err(error.into()),
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Non-blocking, so that a FIFO without a reader does not stop the process at start; the mode,
    // because the lines hold addresses of people.
    options
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(OFlags::NONBLOCK.bits() as i32);
    match options.open(path) {
        // A FIFO that nobody reads yet: holding its read end as well makes it writable (fifo(7)).
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
                && path.metadata()?.file_type().is_fifo() =>
        {
            options.read(true).create(false).open(path)
        }
        other => other,
    }
}

/// A pipe that polls as writable takes so many bytes without blocking, in one piece (pipe(7)).
const PIECE_BYTES_MAX: usize = 4096;

/// The whole lines that fit one piece; of a longer line, its beginning.
fn piece(lines: &[u8]) -> &[u8] {
    if lines.len() <= PIECE_BYTES_MAX {
        return lines;
    }
    let head = &lines[..PIECE_BYTES_MAX];
    match head.iter().rposition(|&byte| byte == b'\n') {
        Some(end) => &head[..=end],
        None => head,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_ends_with_a_line_unless_one_line_is_longer_than_it() {
        assert_eq!(piece(b"a\nb\n"), b"a\nb\n");
        let short = b"0123456\n".repeat(1000);
        assert_eq!(piece(&short).len(), 4096);
        let odd = b"012345\n".repeat(1000);
        assert_eq!(piece(&odd).len(), 4096 / 7 * 7);
        assert_eq!(piece(&[b'x'; 5000]).len(), 4096);
    }

    #[test]
    fn a_pipe_without_room_costs_only_the_patience() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let sink = Sink {
            file: File::from(writer),
            is_regular: false,
        };
        let lines = b"line\n".repeat(1000);
        let mut taken = 0;
        let error = loop {
            match sink.write(&lines, Duration::from_millis(1)) {
                Ok(bytes) => taken += bytes,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(taken >= 4095);
        drop(reader);
        let error = sink.write(&lines, Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
