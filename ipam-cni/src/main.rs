//! CNI plugin.
fn main() {}
