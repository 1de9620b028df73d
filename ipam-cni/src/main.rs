//! The CNI plugin: one exec per call of the container runtime.

use std::process::ExitCode;

fn main() -> ExitCode {
    ipam_cni::plugin::main()
}
