//! Whether this process is alive and whether it is ready, for the probes of a kubelet (`/healthz`, `/readyz`).
//!
//! Alive is who gets on with the work: a step that has gone on for too long, or a part that has not come back for too
//! long, is stuck, and a restart helps. That others do not answer (the API, the cloud) is no reason: their failures come
//! back as errors, which count as getting on.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

/// How long a step may take, and a part be away: the default of `--stuck-after`. Longer than any call of a cloud takes with its
/// waits, and than a watch takes to be asked for again.
const STUCK_AFTER: Duration = Duration::from_secs(600);

/// The longest that a watch is asked for, in seconds: what kube's watcher does by itself, and what its client waits.
const LONGEST_WATCH: u64 = 290;

/// The longest that an answer to a probe may take: kubelets wait as long as the manifests say, which is longer.
const ANSWER: Duration = Duration::from_secs(3);

/// What is asked at each probe: why not, in a sentence.
type Question = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What is known of this process. Clones share it.
#[derive(Clone)]
pub struct Health(Arc<Shared>);

struct Shared {
    stuck_after: Duration,
    known: Mutex<Known>,
    question: Mutex<Option<Question>>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.known().fmt(f)
    }
}

#[derive(Debug, Default)]
struct Known {
    /// Steps that are being taken, by a number of their own.
    steps: BTreeMap<u64, (String, Instant)>,
    next_step: u64,
    /// When each part was last heard of.
    beats: BTreeMap<String, Instant>,
    /// What has to happen before this process is ready.
    awaited: BTreeMap<&'static str, bool>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new(STUCK_AFTER)
    }
}

impl Health {
    /// Nothing known yet; whatever takes longer than this is stuck.
    #[must_use]
    pub fn new(stuck_after: Duration) -> Self {
        Self(Arc::new(Shared { stuck_after, known: Mutex::default(), question: Mutex::default() }))
    }

    /// Begins a step, which ends when this is dropped.
    #[must_use]
    pub fn step(&self, name: impl Into<String>) -> Step {
        let mut known = self.known();
        let number = known.next_step;
        known.next_step += 1;
        known.steps.insert(number, (name.into(), Instant::now()));
        Step { health: self.clone(), number }
    }

    /// A part has been heard of, and has to be again.
    pub fn beat(&self, part: &str) {
        let now = Instant::now();
        *self.known().beats.entry(part.to_owned()).or_insert(now) = now;
    }

    /// This process is not ready before that has come.
    pub fn awaits(&self, what: &'static str) {
        self.known().awaited.entry(what).or_insert(false);
    }

    /// It has come.
    pub fn came(&self, what: &'static str) {
        self.known().awaited.insert(what, true);
    }

    /// Asks this at each probe. What it says counts for readiness; that it says nothing for some seconds, for life.
    pub fn asks(
        &self,
        question: impl Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
    ) {
        *self.0.question.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(question));
    }

    /// The answer; `None`: there was none in time.
    async fn answer(&self) -> Option<Result<(), String>> {
        let question = self.0.question.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(question) = question else { return Some(Ok(())) };
        tokio::time::timeout(ANSWER, question()).await.ok()
    }

    /// Why this process is not alive; nothing when it is.
    pub async fn ailments(&self) -> Vec<String> {
        let mut ailments = self.stuck();
        if self.answer().await.is_none() {
            ailments.push(format!("no answer to its own question within {ANSWER:?}"));
        }
        ailments
    }

    /// Why this process is not ready; nothing when it is.
    pub async fn hindrances(&self) -> Vec<String> {
        let mut hindrances = self.missing();
        match self.answer().await {
            Some(Ok(())) => {}
            Some(Err(why)) => hindrances.push(why),
            None => hindrances.push(format!("no answer to its own question within {ANSWER:?}")),
        }
        hindrances
    }

    /// How long a watch may be asked for, in seconds, so that it is asked for again in time to count as a beat.
    #[must_use]
    pub fn watch_seconds(&self) -> u32 {
        let seconds = (self.0.stuck_after.as_secs() / 2).clamp(1, LONGEST_WATCH);
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    /// What is stuck, a sentence each; nothing when all is well.
    #[must_use]
    pub fn stuck(&self) -> Vec<String> {
        let limit = self.0.stuck_after;
        let known = self.known();
        let steps = known.steps.values().filter(|(_, since)| since.elapsed() > limit);
        let steps =
            steps.map(|(name, since)| format!("{name}: has been at one step for {:.0?}", since.elapsed()));
        let beats = known.beats.iter().filter(|(_, last)| last.elapsed() > limit);
        let beats = beats.map(|(part, last)| format!("{part}: not heard of for {:.0?}", last.elapsed()));
        steps.chain(beats).collect()
    }

    /// What is still to come, a phrase each; nothing when this process is ready.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let known = self.known();
        known
            .awaited
            .iter()
            .filter(|(_, came)| !**came)
            .map(|(what, _)| format!("waits for {what}"))
            .collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A step that is being taken.
#[derive(Debug)]
pub struct Step {
    health: Health,
    number: u64,
}

impl Drop for Step {
    fn drop(&mut self) {
        self.health.known().steps.remove(&self.number);
    }
}

/// Stays here for ever if the failpoint `stuck-PART` was armed, so that tests see that it is noticed.
pub async fn stick(part: &str) {
    let armed = || {
        fail::fail_point!(&format!("stuck-{part}"), |_| true);
        let _ = part;
        false
    };
    if armed() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_stuck() {
        let health = Health::new(Duration::from_millis(20));
        let (done, stuck) = (health.step("a"), health.step("b"));
        health.beat("c");
        assert_eq!(health.stuck(), [""; 0]);
        drop(done);
        std::thread::sleep(Duration::from_millis(30));
        let said = health.stuck().join("; ");
        assert!(said.contains("b: has been at one step") && said.contains("c: not heard of"), "{said}");
        assert!(!said.contains("a:"), "{said}");
        health.beat("c");
        drop(stuck);
        assert_eq!(health.stuck(), [""; 0]);
    }

    #[test]
    fn ready_is_who_waits_for_nothing() {
        let health = Health::default();
        assert_eq!(health.missing(), [""; 0]);
        health.awaits("the lease");
        health.awaits("the caches");
        health.came("the lease");
        assert_eq!(health.missing(), ["waits for the caches"]);
        health.came("the caches");
        // Whoever begins again does not take back what has come.
        health.awaits("the lease");
        assert_eq!(health.missing(), [""; 0]);
    }

    #[tokio::test]
    async fn what_is_asked_decides_about_readiness_and_only_silence_about_life() {
        let health = Health::default();
        assert_eq!(health.hindrances().await, [""; 0]);
        health.asks(|| Box::pin(async { Err("no ENI yet".to_owned()) }));
        assert_eq!(health.hindrances().await, ["no ENI yet"]);
        assert_eq!(health.ailments().await, [""; 0]);
        health.asks(|| Box::pin(std::future::pending()));
        let (hindrances, ailments) = tokio::join!(health.hindrances(), health.ailments());
        assert_eq!((hindrances.len(), ailments.len()), (1, 1));
    }

    #[test]
    fn a_watch_comes_back_before_it_counts_as_stuck() {
        assert_eq!(Health::default().watch_seconds(), 290);
        assert_eq!(Health::new(Duration::from_secs(10)).watch_seconds(), 5);
        assert_eq!(Health::new(Duration::ZERO).watch_seconds(), 1);
    }
}
