//! The plugin's binary, as a container runtime meets it: environment and standard input in, standard output
//! and exit status out. What needs an agent talks to a peer that the test plays; what needs a pod gets a real
//! network namespace with a real veth. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod agent;
mod attachment;
mod checking;
mod conformance;
mod faults;
mod fuzz;
mod namespaces;
mod runner;
mod wiring;
