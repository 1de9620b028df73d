//! The lab: a VPC on one machine, and the end-to-end tests on it.

pub mod cloud_server;
pub mod lab;
pub mod packets;
pub mod world;
