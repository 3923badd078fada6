//! The options of every run, and in them the flag that ends one early.
#![expect(unsafe_code, reason = "sets the terminate flag from another thread than the run's")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::sys;

use crate::engine::forward::Stop;
use crate::engine::raw::accept;

/// The options of every run, kept for the flag in them that ends a run early.
pub(in crate::engine) struct Brake {
    pub(super) options: NonNull<sys::OrtRunOptions>,
    /// Whether somebody asked since the last release: tells a stop from a failure.
    pub(super) asked: AtomicBool,
}

// SAFETY: options without thread affinity. The one thing done to them from several threads is setting and clearing the
// terminate flag, which the runtime documents as allowed while a run uses them.
unsafe impl Send for Brake {}
// SAFETY: as above.
unsafe impl Sync for Brake {}

impl Brake {
    pub(super) fn new() -> Result<Self, String> {
        let mut options = std::ptr::null_mut();
        // SAFETY: writes one handle, which `Brake` releases.
        accept(unsafe { (ort::api().CreateRunOptions)(&raw mut options) })?;
        let options = NonNull::new(options).ok_or("the runtime made no run options")?;
        let brake = Self { options, asked: AtomicBool::new(false) };
        // A run that fails or is stopped says so to its caller; the runtime's own line on stderr would say it twice.
        // SAFETY: the handle is live for as long as `brake`, and no run uses it yet.
        accept(unsafe { (ort::api().RunOptionsSetRunLogSeverityLevel)(brake.options.as_ptr(), SEVERITY_FATAL) })?;
        Ok(brake)
    }
}

impl Stop for Brake {
    fn stop(&self) {
        self.asked.store(true, Ordering::SeqCst);
        // SAFETY: the handle is live for as long as `self`.
        let status = unsafe { (ort::api().RunOptionsSetTerminate)(self.options.as_ptr()) };
        if let Err(reason) = accept(status) {
            tracing::warn!(reason, "the runtime would not take a request to stop");
        }
    }

    fn release(&self) {
        // Nearly every time.
        if !self.asked.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the handle is live for as long as `self`.
        let status = unsafe { (ort::api().RunOptionsUnsetTerminate)(self.options.as_ptr()) };
        self.asked.store(false, Ordering::SeqCst);
        if let Err(reason) = accept(status) {
            tracing::error!(reason, "the runtime goes on stopping every run");
        }
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        // SAFETY: made by `CreateRunOptions`, released once; no run uses it any more, since a runner keeps it alive.
        unsafe { (ort::api().ReleaseRunOptions)(self.options.as_ptr()) }
    }
}

/// `ORT_LOGGING_LEVEL_FATAL`.
const SEVERITY_FATAL: std::ffi::c_int = 4;
