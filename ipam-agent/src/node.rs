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
//! | no journal | what leads to a pod is taken over, see `rebuild` |
//!
//! [`agent`] starts it all. ADD is in `attach`, DEL and every undoing in `detach`, adoption, drift and garbage in
//! `repair`; what is watched and counted is in [`drift`].

mod ack;
pub mod agent;
mod args;
mod attach;
mod bindings;
mod check;
mod connection;
pub mod contact;
mod context;
mod crash;
mod departed;
mod detach;
pub mod drift;
mod drops;
mod eni;
mod evict;
mod failure;
mod fence;
mod gc;
mod inspect;
pub mod journal;
mod locks;
mod masquerade;
mod metrics;
mod names;
mod rebuild;
mod repair;
pub mod self_fence;
mod server;
mod standalone_pods;
mod status;

pub use self::{
    agent::run,
    args::{NodeArgs, NodeConfig},
    attach::POD_GATEWAY,
    crash::CRASH_POINTS,
    standalone_pods::PodRules,
};
