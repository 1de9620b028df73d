//! The TC programs and their loader, on the kernel of this machine. Needs root and a bpffs at `/sys/fs/bpf`.
//!
//! Verdicts, bytes and counters come from `BPF_PROG_TEST_RUN` of the very programs that production loads; where
//! a packet really arrives is seen with real veths in network namespaces of the test's own.

#![expect(clippy::unwrap_used, reason = "a test panics on what it does not expect")]

mod adoption;
mod arp;
mod clsact;
mod delivery;
mod dhcp;
mod events;
mod fixture;
mod from_eni;
mod from_pod;
mod from_pod_v6;
mod icmp_errors;
mod migration;
mod model;
mod nd;
mod raw;
mod stack;
mod stack_v6;
mod timing;
