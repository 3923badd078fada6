//! Environment first, arguments in, exit code out.
#![expect(unsafe_code, reason = "the process environment may be changed only while there is one thread, which is here")]

use std::ffi::OsString;
use std::process::ExitCode;

/// Variables that start like this change the runtime's kernels, leave out experts, set threads or send something out, behind
/// the config's back. There are dozens and every version brings more; none is needed here.
const CLEARED: [&str; 2] = ["ORT_", "MLAS_"];

fn main() -> ExitCode {
    let cleared: Vec<OsString> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| CLEARED.iter().any(|start| name.as_encoded_bytes().starts_with(start.as_bytes())))
        .collect();
    // SAFETY: the first statements of the process; no other thread exists that could read the environment.
    unsafe {
        for name in cleared {
            std::env::remove_var(name);
        }
        // The library's makers build it with telemetry on; this variable alone turns it off.
        std::env::set_var("ORT_DISABLE_TELEMETRY", "1");
    }
    moed::cli::main()
}
