//! systemd's protocol: passed sockets, READY, STATUS, STOPPING, WATCHDOG, the watch on memory. With `telemetry.rs` the only home of `systemd`.
//!
//! Outside systemd every call does nothing.
#![expect(unsafe_code, reason = "a passed descriptor becomes a socket by its number alone")]

pub mod pressure;

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use systemd::daemon;

use crate::fault::Fault;

/// The Unix socket that systemd passed, if it did.
///
/// Call it once, before any thread is started: a second call would hand out the same descriptor again.
pub fn passed_socket() -> Result<Option<UnixListener>, Fault> {
    let failed = |error: systemd::Error| Fault::machine(format!("reading the sockets that systemd passed: {error}"));
    let descriptors = daemon::listen_fds().map_err(failed)?;
    let mut found = None;
    for number in descriptors.iter() {
        let is_unix =
            daemon::is_socket_unix(number, None, daemon::Listening::IsListening, None::<&str>).map_err(failed)?;
        // SAFETY: systemd opened this descriptor for us and nobody else in this process owns it: `listen_fds` covers exactly
        // the numbers that were passed, and this function is called once.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        if is_unix && found.is_none() {
            found = Some(UnixListener::from(descriptor));
        } else {
            return Err(Fault::config(format!(
                "systemd passed the descriptor {number}, which is not one listening Unix socket"
            ))
            .hint("`moed.socket` takes one `ListenStream=` with a path"));
        }
    }
    Ok(found)
}

/// Requests can be answered from now on.
pub fn ready(status: &str) {
    tell([("READY", "1"), ("STATUS", status)]);
}

/// The config is read again; [`ready`] ends it. systemd from 253 on tells by the time that this is an answer to its own wish.
pub fn reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // The monotonic clock counts from the machine's start and is never negative.
    let micros = now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000;
    tell([("RELOADING", "1"), ("MONOTONIC_USEC", micros.to_string().as_str())]);
}

/// What `systemctl status` shows.
pub fn status(text: &str) {
    tell([("STATUS", text)]);
}

/// The end has begun.
pub fn stopping(status: &str) {
    tell([("STOPPING", "1"), ("STATUS", status)]);
}

/// All rooms are alive.
pub fn feed_watchdog() {
    tell([("WATCHDOG", "1")]);
}

/// More time to start or to stop, from now.
pub fn extend(by: Duration) {
    tell([("EXTEND_TIMEOUT_USEC", by.as_micros().to_string().as_str())]);
}

/// Whether anybody listens at all.
pub fn listens() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// How long systemd waits for a sign of life, if it does.
pub fn watchdog_interval() -> Option<Duration> {
    match daemon::watchdog_enabled() {
        Ok(0) | Err(_) => None,
        Ok(micros) => Some(Duration::from_micros(micros)),
    }
}

fn tell<'a, const N: usize>(state: [(&'a str, &'a str); N]) {
    if let Err(error) = daemon::notify(state.iter()) {
        tracing::debug!(%error, "systemd was not told");
    }
}
