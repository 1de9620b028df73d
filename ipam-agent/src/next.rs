//! `ipam-agent` with the maps of a version that does not exist yet: see the feature `next-abi`.

#[path = "main.rs"]
mod agent;

fn main() -> std::process::ExitCode {
    agent::main()
}
