//! What a TCP socket still holds and what its peer has acknowledged.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes in the send queue that the peer has not acknowledged, a queued FIN counted as one
/// (`SIOCOUTQ`, tcp(7)). For a unix socket: bytes the peer has not read.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (the same number as SIOCOUTQ) writes one int through the pointer, which
    // is valid for the call; the descriptor is open for as long as it is borrowed.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::try_from(bytes).unwrap_or(0))
}

/// Bytes the peer has acknowledged since the connection began (`tcpi_bytes_acked`, RFC 4898
/// tcpEStatsAppHCThruOctetsAcked). Fails on a socket that is not TCP.
pub fn acknowledged(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = mem::size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`, which is that large.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all-zero bytes are a valid `tcp_info`, and the kernel wrote integers over them.
    let info = unsafe { info.assume_init() };
    Ok(info.tcpi_bytes_acked)
}
