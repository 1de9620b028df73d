//! A thread that looks at the hooks of a node all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use ipam_agent::dataplane::{Hook, Program, hook_programs};
use ipam_lab::cluster::ClusterNode;

/// What a hook should have, at every moment: one program.
#[derive(Clone, Debug)]
struct Watched {
    ifindex: u32,
    hook: Hook,
    program: String,
}

/// The watch. It counts what it saw.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, String>>,
}

impl Watch {
    /// Watches the hooks that have programs now. There must be such hooks, with one program of ours each.
    pub fn start(node: &ClusterNode) -> Self {
        let mut watched = Vec::new();
        for hook in [Hook::Ingress, Hook::Egress] {
            for (ifindex, programs) in node.hook_programs(hook).unwrap() {
                let [program] = &programs[..] else { panic!("{programs:?} on interface {ifindex}") };
                let ours = Program::ALL.into_iter().any(|ours| ours.name() == program && ours.hook() == hook);
                assert!(ours, "{program} on interface {ifindex}");
                watched.push(Watched { ifindex, hook, program: program.clone() });
            }
        }
        assert!(watched.len() >= 7, "two pods, an ENI and the primary ENI: {watched:?}");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = node.machine().ns().spawn(move || {
            let mut looks = 0;
            while !stopped.load(Ordering::Relaxed) {
                for Watched { ifindex, hook, program } in &watched {
                    let found = hook_programs(*ifindex, *hook).map_err(|error| error.to_string())?;
                    if found != [program.as_str()] {
                        return Err(format!("interface {ifindex}, {hook:?}: {found:?} instead of {program}"));
                    }
                    looks += 1;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            Ok(looks)
        });
        Self { stop, thread }
    }

    /// Ends the watch: how many looks at a hook it had. Panics if one showed anything but one program of ours.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap_or_else(|error| panic!("{error}"))
    }
}
