//! How many connections the descriptor limit allows, known at start rather than found out under
//! load.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::relay::pipe::PIPES_MAX;

/// Kept free for logs, reload, probes in flight, name lookups and the libraries' own.
const RESERVE: u64 = 64;

/// What the process needs for `connections` at once.
fn needed(connections: u64, workers: u64, listening: u64, backends: u64) -> u64 {
    let sockets = connections * 2;
    // A pipe has two ends; no more pipes than directions of connections.
    let pipes = (workers * PIPES_MAX as u64).min(sockets) * 2;
    // Poller and bell of each worker; a probe of each backend.
    sockets + pipes + workers * (2 + listening) + backends + RESERVE
}

/// Raises the soft descriptor limit as far as `wanted` connections need, and returns how many
/// connections the limit then allows, at most `wanted`.
pub fn reserve(wanted: u32, workers: usize, listening: usize, backends: usize) -> u32 {
    let fixed = |connections: u64| {
        needed(
            connections,
            workers as u64,
            listening as u64,
            backends as u64,
        )
    };
    let wanted = u64::from(wanted);
    let limit = raise(fixed(wanted));
    if limit >= fixed(wanted) {
        return wanted as u32;
    }
    // `needed` grows with the connections, so the largest count that fits is found by halving.
    let (mut fits, mut too_many) = (0, wanted);
    while too_many - fits > 1 {
        let middle = fits + (too_many - fits) / 2;
        if fixed(middle) <= limit {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    fits as u32
}

/// Raises the soft limit to `target` if need be, the hard one too where that is permitted.
/// Returns the soft limit that holds.
fn raise(target: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None is "no limit".
    let soft = current.unwrap_or(u64::MAX);
    if soft >= target {
        return soft;
    }
    let hard = maximum.unwrap_or(u64::MAX);
    let tries = [(target, hard.max(target)), (target.min(hard), hard)];
    for (current, maximum) in tries {
        let limit = Rlimit {
            current: Some(current),
            maximum: Some(maximum),
        };
        if setrlimit(Resource::Nofile, limit).is_ok() {
            return current;
        }
    }
    soft
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_wish_is_granted_whole() {
        assert_eq!(reserve(10, 2, 1, 3), 10);
    }

    #[test]
    fn more_than_the_kernel_has_is_cut_to_what_fits() {
        let allowed = reserve(u32::MAX, 2, 1, 3);
        assert!(allowed > 0 && allowed < u32::MAX);
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert!(needed(u64::from(allowed), 2, 1, 3) <= limit);
        assert!(needed(u64::from(allowed) + 1, 2, 1, 3) > limit);
    }
}
