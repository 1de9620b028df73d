//! The providers `tencent` and `aws` against the cloud server, each at its front door: every call, every refusal, every
//! fault.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "cloud/aws.rs"]
mod aws;
#[path = "cloud/faults.rs"]
mod faults;
#[path = "cloud/front_door.rs"]
mod front_door;
#[path = "cloud/ipv6.rs"]
mod ipv6;
#[path = "cloud/life.rs"]
mod life;
#[path = "cloud/pools.rs"]
mod pools;
#[path = "cloud/random.rs"]
mod random;
#[path = "cloud/refusals.rs"]
mod refusals;
#[path = "cloud/rig.rs"]
mod rig;
