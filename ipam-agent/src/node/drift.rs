//! What was found other than it should be, and put right.
//!
//! What should be follows from the journal, the node's `NodeENIConfig` and the configuration. It is compared with what
//! is there on every netlink event that concerns it, every other second in the maps and programs, which tell of no
//! change, and in whole every five seconds. [`Repairs`] counts what had to be put right, remembers the last of it and says each
//! once in the log. What others have made is never touched.

pub mod dataplane;
pub mod links;
mod repairs;
pub mod settings;
pub mod tables;
mod watch;

pub use self::{
    repairs::{Count, Kind, Repair, Repairs},
    watch::keep,
};
