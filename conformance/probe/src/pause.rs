//! Waiting without doing anything, as the process that keeps a sandbox or a container alive.

use std::time::{Duration, Instant};

/// Waits for SIGINT or SIGTERM, or for `limit`, and reaps children meanwhile.
pub(crate) fn run(limit: Option<Duration>) {
    let end = limit.map(|limit| Instant::now() + limit);
    // SAFETY: sigset_t is plain old data that sigemptyset initialises; every pointer is to a local that outlives its call.
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGCHLD] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    };
    loop {
        let left = end.map_or(Duration::from_hours(1), |end| end.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return;
        }
        let timeout = libc::timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: libc::c_long::from(left.subsec_nanos()),
        };
        // SAFETY: the set and the timeout are valid; no signal information is asked for.
        match unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const timeout) } {
            libc::SIGINT | libc::SIGTERM => return,
            // SAFETY: waitpid may be told to store no status.
            libc::SIGCHLD => while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {},
            _ => {}
        }
    }
}
