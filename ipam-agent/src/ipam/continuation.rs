//! What a node may still give to a pod when it cannot ask the API: the last word was that an address is bound to the pod,
//! on this node. Since then the API may have gone on without the node.
//!
//! Another pod gets the address only after one of these:
//!
//! 1. *The node's acknowledgement* that nothing uses the binding. The agent strikes the binding off its journal, on the
//!    disk, before it acknowledges: one that is still there was not acknowledged, whatever has crashed since. This holds
//!    however long the API is silent.
//! 2. *A person's word that the machine is off*: the Node object deleted, the taint of KEP-2268, a release forced by the
//!    pod's UID. The machine that reads this is not off, so the person was wrong, or meant it. The cloud has moved the
//!    address by then, and no packet under it leaves or reaches this machine; but two pods believe in it. What bounds
//!    that is [`Limits::strict`]: a word older than this is no longer acted on.
//! 3. *The node's silence*, for claims whose fencing is [`Fencing::Optimistic`] and for no others. Here the node does not
//!    need to be told: it knows how long it has heard nothing, and [`Limits::optimistic`] ends before the controller's
//!    patience does.
//!
//! A pod of another UID is another pod, also of the same name: the StatefulSet's next one. Its address may be this one,
//! but under an epoch that only the controller can open. Served under the former epoch it would keep the node from ever
//! acknowledging that, and so keep itself waiting. It waits for the API.

use std::time::Duration;

use crate::api::Fencing;

/// How long the API's last word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For claims that nobody takes over without the node's acknowledgement or a person's word.
    pub strict: Duration,
    /// For claims that are taken over when the node is silent. Shorter than the controller waits for that.
    pub optimistic: Duration,
}

/// Why the last word does not count any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooOld {
    /// It is of an earlier start of the machine, or there is none.
    #[error("the API has not been heard since this machine was started")]
    NotHeard,
    /// The node may have been given up meanwhile.
    #[error("the API has not been heard for {} s, and its word counts for {} s", .silent.as_secs(), .limit.as_secs())]
    Silent {
        /// How long.
        silent: Duration,
        /// How long would do.
        limit: Duration,
    },
}

impl Limits {
    /// Whether a binding may be acted on after the API was silent for so long; `None`: since before the machine was
    /// started.
    ///
    /// # Errors
    /// When it may not.
    pub fn allow(&self, fencing: Fencing, silent_for: Option<Duration>) -> Result<(), TooOld> {
        let limit = match fencing {
            Fencing::Strict => self.strict,
            Fencing::Optimistic => self.optimistic,
        };
        match silent_for {
            None => Err(TooOld::NotHeard),
            Some(silent) if silent >= limit => Err(TooOld::Silent { silent, limit }),
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { strict: Duration::from_secs(300), optimistic: Duration::from_secs(30) };
    /// How long the controller waits for a silent node.
    const TAKEOVER: Duration = Duration::from_secs(50);

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// Time goes by, in seconds.
        Pass(u8),
        /// The network between node and API goes, or comes back.
        Cut,
        Heal,
        /// The pod's object is gone: the controller tells the node to let go.
        Replace,
        /// The node does so and says so. The agent dies in between, or not: what it strikes off comes first.
        Acknowledge {
            dies_before_the_word: bool,
        },
        /// The controller binds the address elsewhere if it may.
        Move,
        /// A person says that the machine is off.
        DeclareOff,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..60u8).prop_map(Step::Pass),
            2 => Just(Step::Cut),
            1 => Just(Step::Heal),
            2 => Just(Step::Replace),
            2 => any::<bool>().prop_map(|dies_before_the_word| Step::Acknowledge { dies_before_the_word }),
            3 => Just(Step::Move),
            1 => Just(Step::DeclareOff),
        ]
    }

    /// The controller's side and the node's, each with what it knows.
    #[derive(Default)]
    struct World {
        now: u64,
        connected: bool,
        // The API.
        detaching: bool,
        acknowledged: bool,
        declared_off_at: Option<u64>,
        moved: bool,
        // The node.
        heard_at: u64,
        told_to_detach: bool,
        struck_off: bool,
    }

    impl World {
        /// A node with a connection hears at once what is new.
        fn hear(&mut self) {
            if self.connected {
                self.heard_at = self.now;
                self.told_to_detach |= self.detaching;
            }
        }

        fn silent_for(&self) -> Duration {
            Duration::from_secs(self.now - self.heard_at)
        }

        fn go(&mut self, step: Step, fencing: Fencing) {
            match step {
                Step::Pass(seconds) => self.now += u64::from(seconds),
                Step::Cut => self.connected = false,
                Step::Heal => self.connected = true,
                Step::Replace => self.detaching = true,
                Step::Acknowledge { dies_before_the_word } => {
                    if self.connected && self.told_to_detach {
                        self.struck_off = true;
                        self.acknowledged |= !dies_before_the_word;
                    }
                }
                Step::Move => {
                    let taken_over = fencing == Fencing::Optimistic && self.silent_for() >= TAKEOVER;
                    self.moved |=
                        self.detaching && (self.acknowledged || self.declared_off_at.is_some() || taken_over);
                }
                Step::DeclareOff => _ = self.declared_off_at.get_or_insert(self.now),
            }
            self.hear();
        }

        /// Whether an ADD of the pod is served.
        fn serves(&self, fencing: Fencing) -> bool {
            !self.told_to_detach && !self.struck_off && LIMITS.allow(fencing, Some(self.silent_for())).is_ok()
        }
    }

    proptest! {
        /// Whatever happens in whatever order, a node that serves a binding is its only holder, unless a person has said
        /// that the machine is off; and then not for long.
        #[test]
        fn a_node_that_serves_is_the_only_holder(
            optimistic: bool,
            steps in prop::collection::vec(step(), 1..40),
        ) {
            let fencing = if optimistic { Fencing::Optimistic } else { Fencing::Strict };
            let mut world = World { connected: true, ..World::default() };
            for step in steps {
                world.go(step, fencing);
                if world.serves(fencing) && world.moved {
                    let since = world.declared_off_at.map(|at| world.now - at);
                    prop_assert!(since.is_some(), "two holders after {step:?}");
                    prop_assert!(world.silent_for() < LIMITS.strict);
                }
            }
        }

        /// Only a silence that grows ends a binding, and it ends an optimistic one first.
        #[test]
        fn silence_only_ever_refuses_more(shorter in 0..1000u64, more in 0..1000u64) {
            let allowed = |fencing, seconds| LIMITS.allow(fencing, Some(Duration::from_secs(seconds))).is_ok();
            for fencing in [Fencing::Strict, Fencing::Optimistic] {
                prop_assert!(allowed(fencing, shorter) || !allowed(fencing, shorter + more));
                prop_assert!(LIMITS.allow(fencing, None) == Err(TooOld::NotHeard));
            }
            prop_assert!(allowed(Fencing::Strict, shorter) || !allowed(Fencing::Optimistic, shorter));
        }
    }
}
