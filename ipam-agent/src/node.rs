//! The node agent: brings ENIs up, answers the CNI plugin, wires pods, and keeps everything on the node as it should
//! be.
//!
//! An attachment lives in the [`journal`] and passes `Intent → Committed → Detaching → gone`. `Committed` and `Detaching`
//! are on the disk before the runtime is answered, so whatever a crash leaves, the next start knows what to do:
//!
//! | found | done |
//! |---|---|
//! | `Intent` | undone: the runtime never heard of success |
//! | `Committed` | kept and repaired, in place |
//! | `Detaching` | finished |
//! | nothing | a map entry, route, program or link of ours is removed |
//!
//! [`agent`] starts it all. ADD is in `attach`, DEL and every undoing in `detach`, adoption, drift and garbage in
//! `repair`.

mod ack;
pub mod agent;
mod args;
mod attach;
mod bindings;
mod check;
mod connection;
mod context;
mod crash;
mod detach;
mod eni;
mod evict;
mod failure;
mod fence;
mod gc;
pub mod journal;
mod locks;
mod names;
mod repair;
mod server;
mod standalone_pods;

pub use self::{
    agent::run,
    args::{NodeArgs, NodeConfig},
    crash::CRASH_POINTS,
    standalone_pods::PodRules,
};
