//! The lab: a VPC on one machine, and the end-to-end tests on it.

pub mod caller;
pub mod cloud_server;
pub mod cluster;
pub mod control_plane;
pub mod lab;
pub mod packets;
pub mod real_api;
pub mod scrape;
pub mod story;
pub mod verifier;
pub mod world;
