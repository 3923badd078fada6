//! Environment first, arguments in, exit code out.
#![expect(unsafe_code, reason = "the process environment may be changed only while there is one thread, which is here")]

use std::process::ExitCode;

/// What would change the runtime's behaviour behind the config's back, or send something out.
const CLEARED: [&str; 6] = [
    "ORT_DYLIB_PATH",
    "ORT_QMOE_CPU_QNBIT_GEMM",
    "ORT_QMOE_CPU_DISABLE_AVX512",
    "ORT_QMOE_MIN_EXPERT_WEIGHT",
    "ORT_USE_MLAS_Q4_GEMM_MOE",
    "ORT_LOG",
];

fn main() -> ExitCode {
    // SAFETY: the first statement of the process; no other thread exists that could read the environment.
    unsafe {
        // The library's makers build it with telemetry on; this variable alone turns it off.
        std::env::set_var("ORT_DISABLE_TELEMETRY", "1");
        for name in CLEARED {
            std::env::remove_var(name);
        }
    }
    moed::cli::main()
}
