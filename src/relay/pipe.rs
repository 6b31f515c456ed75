//! Pipes for splice(2): a worker's small stock, so that an idle connection holds none.

use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

/// Wanted size of a pipe. At 64 KiB a bulk transfer cost a tenth more; above this nothing was
/// gained, and a slow reader would hold more in the kernel.
const PIPE_BYTES: usize = 512 * 1024;

/// A pipe smaller than this moves less per call than a copy does, so it is not used. An
/// unprivileged user's pipes shrink to two pages once `pipe-user-pages-soft` is reached.
const PIPE_BYTES_MIN: usize = 32 * 1024;

/// Pipes of one worker, in use and in stock. Flows beyond it are copied. Two descriptors each.
pub const PIPES_MAX: usize = 256;

/// Empty pipes kept for the next flow.
const STOCK_MAX: usize = 32;

#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) output: OwnedFd,
    pub(super) input: OwnedFd,
    pub(super) capacity: usize,
    /// Bytes inside.
    pub(super) held: usize,
}

#[derive(Debug, Default)]
pub struct Pipes {
    #[expect(clippy::vec_box, reason = "lent as boxes: a turn allocates nothing")]
    stock: Vec<Box<Pipe>>,
    /// Pipes that exist, lent ones included.
    count: usize,
}

impl Pipes {
    /// An empty pipe, or `None` when copying is the better or the only way.
    pub(super) fn take(&mut self) -> Option<Box<Pipe>> {
        if let Some(pipe) = self.stock.pop() {
            return Some(pipe);
        }
        if self.count >= PIPES_MAX {
            return None;
        }
        let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Refused (EPERM, EBUSY) leaves the size the kernel gave.
        let _ = fcntl_setpipe_size(&input, PIPE_BYTES);
        let capacity = fcntl_getpipe_size(&input).ok()?;
        if capacity < PIPE_BYTES_MIN {
            return None;
        }
        self.count += 1;
        Some(Box::new(Pipe {
            output,
            input,
            capacity,
            held: 0,
        }))
    }

    /// Takes a pipe back. One that still holds bytes is closed: they belong to nobody else.
    pub(super) fn give_back(&mut self, pipe: Box<Pipe>) {
        if pipe.held == 0 && self.stock.len() < STOCK_MAX {
            self.stock.push(pipe);
        } else {
            self.count -= 1;
        }
    }
}
