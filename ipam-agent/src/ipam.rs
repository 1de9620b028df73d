//! Pure decisions: what to do with an address, where to put it, when to take it back.
//!
//! No I/O, no clock, no async: the controller observes, asks here, acts. So each decision can be tested with
//! every state there is.

pub mod binding;
pub mod capacity;
pub mod continuation;
pub mod family;
pub mod pool;
pub mod retention;
pub mod workload;
