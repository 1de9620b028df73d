//! When the API was last heard. How long it has been silent decides what may be done on its last word; so it is measured
//! by the clock that runs from boot, sleep included, and that nobody sets, and it is kept in the journal.

use std::{
    fs,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use kube::{Api, Client, api::GetParams};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::{
    api::NodeENIConfig,
    node::{context::Node, journal::Change},
};

/// How often the API is asked for a sign of life. One read of one object that the API server has in its memory.
const PERIOD: Duration = Duration::from_secs(10);
/// How long the answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// The journal is at most this much behind, not to be written for every sign of life.
const PERSIST: Duration = Duration::from_secs(30);

/// A moment, as milliseconds since a certain start of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Which start, in the kernel's words.
    pub boot_id: String,
    /// Milliseconds since then.
    pub millis: u64,
}

impl Heard {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        static BOOT_ID: OnceLock<String> = OnceLock::new();
        let boot_id = BOOT_ID.get_or_init(|| {
            let read = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            read.trim().to_owned()
        });
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let millis = seconds * 1000 + u64::try_from(now.tv_nsec).unwrap_or_default() / 1_000_000;
        Self { boot_id: boot_id.clone(), millis }
    }

    /// How long ago it was; `None` when the machine was started anew since.
    #[must_use]
    pub fn ago(&self) -> Option<Duration> {
        self.before(&Self::now())
    }

    fn before(&self, now: &Self) -> Option<Duration> {
        let same = self.boot_id == now.boot_id && !now.boot_id.is_empty();
        now.millis.checked_sub(self.millis).filter(|_| same).map(Duration::from_millis)
    }
}

#[derive(Debug, Default)]
struct State {
    last: Option<Heard>,
    away: bool,
}

/// What is known of the API's presence. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Contact(Arc<Mutex<State>>);

impl Contact {
    /// With what the journal says of an earlier agent.
    #[must_use]
    pub fn new(last: Option<Heard>) -> Self {
        Self(Arc::new(Mutex::new(State { last, away: false })))
    }

    /// The API has answered.
    pub fn heard(&self) {
        let mut state = self.lock();
        state.last = Some(Heard::now());
        if std::mem::take(&mut state.away) {
            info!("the API answers again");
        }
    }

    /// The API has not answered.
    pub fn missed(&self) {
        if !std::mem::replace(&mut self.lock().away, true) {
            warn!("the API does not answer; pods go on, and those that it has told of are served");
        }
    }

    /// The last attempt to reach the API has failed.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.lock().away
    }

    /// How long the API has been silent; `None`: since before the machine was started, or for ever.
    #[must_use]
    pub fn silent_for(&self) -> Option<Duration> {
        self.lock().last.as_ref()?.ago()
    }

    fn last(&self) -> Option<Heard> {
        self.lock().last.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for signs of life until the process ends, and writes down when the last was.
pub async fn keep(node: Arc<Node>, client: Client) {
    let api: Api<NodeENIConfig> = Api::all(client);
    let shortest = node.config.offline.strict.min(node.config.offline.optimistic);
    loop {
        let from_memory = GetParams::any();
        let ask = api.get_with(&node.config.node_name, &from_memory);
        match tokio::time::timeout(ANSWER, ask).await {
            Ok(answer) if is_answer(&answer) => node.contact.heard(),
            _ => node.contact.missed(),
        }
        if let Err(error) = persist(&node).await {
            warn!(%error, "cannot write down when the API was last heard");
        }
        tokio::time::sleep(PERIOD.min(shortest / 3)).await;
    }
}

/// Whether there is an API server that can serve: one whose storage is away cannot, and neither can its other clients
/// change anything.
fn is_answer<T>(answer: &kube::Result<T>) -> bool {
    match answer {
        Ok(_) => true,
        Err(kube::Error::Api(status)) => (400..429).contains(&status.code),
        Err(_) => false,
    }
}

async fn persist(node: &Node) -> Result<(), crate::node::journal::JournalError> {
    let Some(last) = node.contact.last() else { return Ok(()) };
    let written = node.journal.book().heard.as_ref().and_then(|written| written.before(&last));
    if written.is_some_and(|behind| behind < PERSIST) {
        return Ok(());
    }
    node.journal.change(Change::Heard(last)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_of_another_start_of_the_machine_is_no_moment() {
        let now = Heard::now();
        assert!(!now.boot_id.is_empty());
        let at = |millis| Heard { millis, ..now.clone() };
        assert_eq!(at(now.millis - 40).before(&now), Some(Duration::from_millis(40)));
        assert_eq!(at(now.millis + 1).before(&now), None, "a clock that goes back is not to be trusted");
        assert_eq!(Heard { boot_id: "another".into(), millis: 0 }.before(&now), None);
        assert!(now.ago().is_some());
    }

    #[test]
    fn silence_is_counted_from_the_last_answer() {
        let contact = Contact::new(None);
        assert_eq!(contact.silent_for(), None);
        contact.missed();
        assert!(contact.is_away() && contact.silent_for().is_none());
        contact.heard();
        assert!(!contact.is_away() && contact.silent_for().is_some());
        let heard = contact.last();
        contact.missed();
        assert_eq!(contact.last(), heard);
    }
}
