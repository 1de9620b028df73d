//! What a node's task remembers between its rounds: refusals, so that asking again costs nothing before it can help, and
//! since when things are as they are.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use kube::ResourceExt;
use tokio::time::Instant;

use super::{Answer, NotPlaced, PlaceRequest};
use crate::api::condition::reason;
use crate::controller::ControllerConfig;

/// A refusal, and when it is worth asking again.
#[derive(Debug)]
pub struct Refusal {
    pub reason: &'static str,
    pub message: String,
    pub until: Instant,
    pauses: ExponentialBackoff,
}

impl Refusal {
    /// The first, or one more after `before`: the pauses grow.
    fn new(before: Option<Self>, config: &ControllerConfig, error: &NotPlaced) -> Self {
        let (retry, longest) = (config.retry, config.retry_max.max(config.retry));
        // Said again before it was worth asking: it counts once.
        let before = match before {
            Some(before) if before.stands() && before.is(error) => return before,
            before => before,
        };
        let mut pauses = before.map_or_else(
            || {
                let builder = ExponentialBuilder::default().with_min_delay(retry).with_max_delay(longest);
                builder.without_max_times().build()
            },
            |before| before.pauses,
        );
        let until = Instant::now() + pauses.next().unwrap_or(longest);
        Self { reason: error.reason, message: error.message.clone(), until, pauses }
    }

    fn is(&self, error: &NotPlaced) -> bool {
        self.reason == error.reason && self.message == error.message
    }

    fn again(&self) -> NotPlaced {
        NotPlaced::new(self.reason, &self.message)
    }

    fn stands(&self) -> bool {
        Instant::now() < self.until
    }
}

/// What a refused claim asked for, and how much room had been made by then.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    ips: Vec<String>,
    subnets: Vec<String>,
    held: Vec<String>,
    room: u64,
}

impl Asked {
    fn of(request: &PlaceRequest, room: u64) -> Self {
        Self {
            ips: request.nominated_ips.clone(),
            subnets: request.nominated_subnets.clone(),
            held: request.ips.iter().map(|ip| ip.name_any()).collect(),
            room,
        }
    }
}

/// A node's memory.
#[derive(Debug, Default)]
pub struct Memory {
    /// Claims that were refused, by UID.
    claims: HashMap<String, (Asked, Refusal)>,
    /// The node's ENIs could not be seen.
    sight: Option<Refusal>,
    /// An ENI was needed and could not be had.
    pub eni: Option<Refusal>,
    /// It was the cloud that refused it.
    eni_by_cloud: bool,
    /// The node needs an ENI though no pod asks.
    pub wants_eni: bool,
    /// Primary addresses whose objects are known to be as they should, with their ENIs: a cache may not show it yet.
    pub primaries: HashMap<String, (String, Instant)>,
    /// Subnets that were told of as not configured any more.
    pub closed: HashSet<String>,
    /// Since when there have been too many warm addresses.
    pub surplus_since: Option<Instant>,
    /// When to look without being asked.
    pub look_at: Option<Instant>,
    /// Warm addresses when last looked at, and those left since.
    pub warm: usize,
}

impl Memory {
    /// When to look without being asked.
    pub fn wake_at(&self) -> Option<Instant> {
        let eni = self.eni.as_ref().filter(|_| self.wants_eni).map(|refusal| refusal.until);
        let at = [eni, self.look_at].into_iter().flatten().min()?;
        Some(self.sight.as_ref().map_or(at, |blind| blind.until.max(at)))
    }

    /// Whether it is time to look.
    pub fn is_due(&self) -> bool {
        self.wake_at().is_some_and(|at| at <= Instant::now())
    }

    /// The requests that it makes sense to look at now; the others are answered as they were before.
    pub fn still_open(
        &mut self,
        requests: Vec<(PlaceRequest, Answer)>,
        room: u64,
    ) -> Vec<(PlaceRequest, Answer)> {
        let mut open = Vec::new();
        for (request, answer) in requests {
            match self.refusal_of(&request, room) {
                Some(error) => drop(answer.send(Err(error.holding(request.ips)))),
                None => open.push((request, answer)),
            }
        }
        open
    }

    fn refusal_of(&self, request: &PlaceRequest, room: u64) -> Option<NotPlaced> {
        if let Some(refusal) = self.sight.as_ref().filter(|refusal| refusal.stands()) {
            return Some(refusal.again());
        }
        let (asked, refusal) = self.claims.get(&request.claim.uid)?;
        (refusal.stands() && *asked == Asked::of(request, room)).then(|| refusal.again())
    }

    /// A request was refused.
    pub fn refuse(
        &mut self,
        config: &ControllerConfig,
        room: u64,
        request: &PlaceRequest,
        error: &NotPlaced,
    ) {
        if error.stale {
            return;
        }
        let uid = request.claim.uid.clone();
        let held = error.ips.iter().map(|ip| ip.name_any()).collect();
        let asked = Asked { held, ..Asked::of(request, room) };
        // When something has changed since, the pauses begin anew.
        let before =
            self.claims.remove(&uid).filter(|(before, _)| *before == asked).map(|(_, refusal)| refusal);
        // Claims that are gone ask no more.
        self.claims.retain(|_, (_, refusal)| refusal.until + config.retry_max > Instant::now());
        self.claims.insert(uid, (asked, Refusal::new(before, config, error)));
    }

    /// A request was served.
    pub fn serve(&mut self, request: &PlaceRequest) {
        self.claims.remove(&request.claim.uid);
    }

    /// The node's ENIs cannot be seen.
    pub fn is_blind(&mut self, config: &ControllerConfig, error: &NotPlaced) {
        if error.reason == reason::NODE_UNKNOWN {
            // Its configuration will wake it.
            (self.look_at, self.wants_eni) = (None, false);
            return;
        }
        self.sight = Some(Refusal::new(self.sight.take(), config, error));
    }

    /// They can.
    pub fn sees(&mut self) {
        self.sight = None;
    }

    /// An ENI could not be had. Whether that is news.
    pub fn no_eni(&mut self, config: &ControllerConfig, error: &NotPlaced, by_cloud: bool) -> bool {
        let before = self.eni.take();
        let known = before.as_ref().is_some_and(|before| before.is(error));
        self.eni = Some(Refusal::new(before, config, error));
        self.eni_by_cloud = by_cloud;
        !known
    }

    /// Whether it is settled when to ask for an ENI again.
    pub fn waits_for_eni(&self) -> bool {
        self.eni.as_ref().is_some_and(Refusal::stands)
    }

    /// The cloud is not to be asked for an ENI yet: what it said.
    pub fn eni_refused(&self) -> Option<NotPlaced> {
        self.eni.as_ref().filter(|refusal| self.eni_by_cloud && refusal.stands()).map(Refusal::again)
    }

    /// An ENI was had: everything is worth another try.
    pub fn has_eni(&mut self) {
        self.eni = None;
        self.claims.clear();
    }

    /// For how long there have been too many warm addresses.
    pub fn surplus_for(&self) -> Duration {
        self.surplus_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}
