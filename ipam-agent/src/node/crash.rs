//! Points at which the crash tests end the process.

/// Every crash point, in the order in which an ADD and a DEL pass them. `FAILPOINTS=<name>=return` ends the process by
/// SIGABRT right after the step of that name; with `<name>=1*off->return` at its second passage, and so on.
pub const CRASH_POINTS: &[&str] = &[
    "node-add-intent",
    "node-add-veth",
    "node-add-program",
    "node-add-wire",
    "node-add-route",
    "node-add-commit",
    "node-del-intent",
    "node-del-route",
    "node-del-link",
    "node-del-forget",
];

/// Ends the process if this point was armed. Nothing without the feature `failpoints`.
pub fn crash_point(name: &str) {
    debug_assert!(CRASH_POINTS.contains(&name), "{name} is not in CRASH_POINTS");
    fail::fail_point!(name, |_| std::process::abort());
}
