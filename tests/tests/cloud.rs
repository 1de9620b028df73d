//! The `tencent` provider against the cloud server: every call, every refusal, every fault.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "cloud/faults.rs"]
mod faults;
#[path = "cloud/front_door.rs"]
mod front_door;
#[path = "cloud/life.rs"]
mod life;
#[path = "cloud/random.rs"]
mod random;
#[path = "cloud/refusals.rs"]
mod refusals;
#[path = "cloud/rig.rs"]
mod rig;
