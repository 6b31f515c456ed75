//! Keeps the descriptors of this process from the programs it starts.

/// The first after standard input, output and errors.
const FIRST: libc::c_uint = 3;

/// Marks every descriptor that is open now to be closed in programs started later: those that this
/// process was given by whoever started it would go on to them. Before Linux 5.11, which lacks the
/// call, it does nothing.
pub fn keep_from_programs() {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: with this flag nothing is closed in this process, so no descriptor that anybody
    // holds changes its meaning; no memory is passed. By number, as older C libraries lack it.
    let _maybe_missing =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, flags) };
}
