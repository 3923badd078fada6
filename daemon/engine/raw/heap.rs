//! The C library's heap, where the runtime and we put what is no cache.
#![expect(unsafe_code, reason = "declares a function of the C library")]

use std::ffi::c_int;

// SAFETY: as glibc declares it. It may be called at any time from any thread: it takes the heap's own locks, and gives back
// pages in which nothing lives.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
unsafe extern "C" {
    safe fn malloc_trim(pad: usize) -> c_int;
}

/// Gives back to the kernel what was freed. The heap keeps it otherwise, once for each thread that ever loaded a model. Takes
/// some milliseconds.
pub fn give_back_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let gave = malloc_trim(0) == 1;
        tracing::debug!(gave, "freed memory goes back");
    }
}
