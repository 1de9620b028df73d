//! Faults to order.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// A fault, and the calls it befalls.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    /// The action; absent: any.
    pub action: Option<String>,
    /// Which calls of it, counted from the moment the plan is made.
    pub when: When,
    /// What happens to them.
    pub kind: FaultKind,
}

/// Which calls.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// That one, from 1.
    Nth(u64),
    /// The first so many.
    First(u64),
    /// All.
    Always,
    /// Each with this probability.
    Random {
        /// From 0 to 1.
        probability: f64,
        /// Makes it happen the same way again.
        seed: u64,
    },
}

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum FaultKind {
    /// `RequestLimitExceeded`, and nothing is done.
    Throttle,
    /// This error, and nothing is done.
    Error {
        /// Such as `InternalError`.
        code: String,
        /// For people.
        message: String,
    },
    /// HTTP 500 with a page of HTML, and nothing is done.
    Http500,
    /// It is done, and the connection ends without an answer.
    TimeoutAfterSuccess,
    /// It is done, and half of the answer comes.
    TornAnswer,
    /// It is done at once, and the answer comes this much later.
    Late(Duration),
    /// A Describe shows things as they were this long ago. Other actions: no fault.
    StaleDescribe(Duration),
    /// A Create or Attach is begun and never ends: the ENI stays PENDING or ATTACHING until it is detached or
    /// deleted. Other actions: no fault.
    Stuck,
    /// Half of a batch of addresses is done, then `InternalError`. Other actions: `InternalError`, and
    /// nothing is done.
    PartialBatch,
}

/// The plans; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Vec<Armed>>>);

#[derive(Debug)]
struct Armed {
    plan: FaultPlan,
    calls: u64,
    random: StdRng,
}

impl Faults {
    /// Adds a plan. Of several that fit a call, the first made counts.
    pub fn add(&self, action: Option<&str>, when: When, kind: FaultKind) {
        self.script(FaultPlan { action: action.map(str::to_owned), when, kind });
    }

    /// Adds a plan. Of several that fit a call, the first made counts.
    pub fn script(&self, plan: FaultPlan) {
        let seed = if let When::Random { seed, .. } = plan.when { seed } else { 0 };
        self.lock().push(Armed { plan, calls: 0, random: StdRng::seed_from_u64(seed) });
    }

    /// Forgets all plans.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// What happens to this call.
    pub(super) fn strike(&self, action: &str) -> Option<FaultKind> {
        let mut struck = None;
        for armed in self.lock().iter_mut() {
            if armed.plan.action.as_deref().is_some_and(|wanted| wanted != action) {
                continue;
            }
            armed.calls += 1;
            let hit = match armed.plan.when {
                When::Nth(n) => armed.calls == n,
                When::First(n) => armed.calls <= n,
                When::Always => true,
                When::Random { probability, .. } => armed.random.random_bool(probability),
            };
            if hit && struck.is_none() {
                struck = Some(armed.plan.kind.clone());
            }
        }
        struck
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Armed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
