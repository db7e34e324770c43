//! The `cofferdam` command.

use std::process::ExitCode;

/// A run is some hundred small allocations; the system's allocator took a fifth of a worker's
/// processor time for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(feature = "local")]
    if let Some(code) = cofferdam_images::run_if_asked() {
        return code;
    }
    cofferdam::cli::main()
}
