//! Network namespaces of a test, removed with it.

use std::{
    fs,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

/// A named network namespace.
pub struct Netns {
    name: String,
}

impl Netns {
    pub fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let netns = Self { name: format!("ipamcni-{}-{count}-{role}", std::process::id()) };
        ip(&["netns", "add", &netns.name]);
        netns.ip("link set lo up");
        netns
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs `ip` with these words inside; panics when it fails.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        let mut args = vec!["-n", self.name.as_str()];
        args.extend(words.split_whitespace());
        ip(&args)
    }

    /// Runs a command inside.
    pub fn run(&self, words: &str) -> Output {
        // Not `ip netns exec`, which mounts another /sys.
        let net = format!("--net={}", self.path());
        Command::new("nsenter").arg(net).args(words.split_whitespace()).output().unwrap()
    }

    /// Whether the address answers a ping from inside.
    pub fn pings(&self, address: &str) -> bool {
        self.run(&format!("ping -n -c 1 -W 2 {address}")).status.success()
    }

    pub fn remove(&self) {
        ip(&["netns", "del", &self.name]);
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if fs::exists(self.path()).unwrap_or(false) {
            // Panicking here, perhaps in a panic already, would hide the first cause.
            let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
        }
    }
}

#[track_caller]
fn ip(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
