//! When to look: at once when the kernel tells of a change that concerns us, every other second at the dataplane, which tells
//! of none, and every few seconds at everything.
//!
//! All of it is one task, so that no two looks see and repair the same thing.

use std::{
    collections::BTreeMap,
    ops::BitOrAssign,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _};
use tokio::{sync::watch, time::MissedTickBehavior};
use tracing::{debug, warn};

use crate::{
    health,
    netlink::{Event, Events, Link, MacText, SettingEvent, SettingEvents, SettingOf},
    node::{
        context::Node,
        drift::{dataplane, settings},
        eni::{self, Wanted},
        failure::Failure,
        journal::{Record, State},
        names::HOST_IFNAME_PREFIX,
        repair,
    },
};

/// Everything is looked at this often even when no event comes.
const PERIOD: Duration = Duration::from_secs(5);
/// Programs, pins and maps are looked at this often.
const DATAPLANE_PERIOD: Duration = Duration::from_secs(2);
/// Events of one cause come in bursts: what comes within this time is one look.
const SETTLE: Duration = Duration::from_millis(20);
/// The longest that events wait when each look finds something that was undone again.
const SLOWEST: Duration = Duration::from_secs(3);

/// What is to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Due {
    enis: bool,
    pods: bool,
    dataplane: bool,
}

impl Due {
    const ALL: Self = Self { enis: true, pods: true, dataplane: true };
    const ENIS: Self = Self { enis: true, pods: false, dataplane: false };
    const PODS: Self = Self { enis: false, pods: true, dataplane: false };
    const DATAPLANE: Self = Self { enis: false, pods: false, dataplane: true };
}

impl BitOrAssign for Due {
    fn bitor_assign(&mut self, other: Self) {
        self.enis |= other.enis;
        self.pods |= other.pods;
        self.dataplane |= other.dataplane;
    }
}

/// Keeps ENIs and attachments as they should be until the process ends.
pub async fn keep(
    node: Arc<Node>,
    mut wanted: watch::Receiver<Wanted>,
    mut events: Events,
    mut settings: SettingEvents,
) {
    let mut everything = tokio::time::interval(PERIOD.min(node.config.gc_period));
    let mut dataplane = tokio::time::interval(DATAPLANE_PERIOD);
    everything.set_missed_tick_behavior(MissedTickBehavior::Delay);
    dataplane.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pause = SETTLE;
    loop {
        node.config.health.beat("the repair");
        let mut heard = Heard::default();
        let mut due = Due::default();
        tokio::select! {
            _ = everything.tick() => due = Due::ALL,
            _ = dataplane.tick() => due = Due::DATAPLANE,
            changed = wanted.changed() => match changed {
                Ok(()) => due = Due::ENIS,
                Err(_) => return,
            },
            event = events.next() => match event {
                Some(event) => heard.take(event),
                None => return warn!("no more netlink events"),
            },
            changes = settings.next() => match changes {
                Ok(changes) => heard.settings.extend(changes),
                Err(error) => return warn!(%error, "no more events of settings"),
            },
        }
        let told = heard.concern(&node);
        if told != Due::default() || due.enis && !due.pods {
            tokio::time::sleep(pause).await;
        }
        while let Some(Some(event)) = events.next().now_or_never() {
            heard.take(event);
        }
        while let Some(Ok(changes)) = settings.next().now_or_never() {
            heard.settings.extend(changes);
        }
        due |= heard.concern(&node);
        if due == Due::default() {
            continue;
        }
        if node.config.repairs_are_held() {
            // The lab waits for this line: no look is under way then.
            debug!("repairs are held");
            continue;
        }
        let _step = node.config.health.step("the repair");
        health::stick("repair").await;
        let before = node.repairs.total();
        look(&node, due, &mut wanted).await;
        pause = match (told != Due::default(), node.repairs.total() > before) {
            (true, true) => (pause * 2).min(SLOWEST),
            (true, false) => SETTLE,
            // Nothing had to wait for this look, so it says nothing.
            (false, _) => pause,
        };
    }
}

async fn look(node: &Node, due: Due, wanted: &mut watch::Receiver<Wanted>) {
    if due.dataplane {
        // First: without their directory no link can be pinned.
        let result = dataplane::keep(node).await;
        if let Err(failure) = &result {
            warn!(%failure, "the dataplane is not as it should be; trying again");
        }
        node.broken.store(matches!(result, Err(Failure::Dataplane(_))), Ordering::Relaxed);
    }
    if due.enis || due.pods {
        // It changes every device: before any of them is looked at.
        settings::keep_ip_forward(node, true);
    }
    if due.enis {
        let enis = wanted.borrow_and_update().clone();
        if let Err(error) = eni::reconcile(node, &enis).await {
            warn!(error = format!("{error:#}"), "ENIs are not as they should be; trying again");
        }
    }
    if due.pods
        && let Err(failure) = repair::repair(node).await
    {
        warn!(%failure, "attachments are not as they should be; trying again");
    }
}

/// Events of one burst. Of a device only what it is in the end.
#[derive(Default)]
struct Heard {
    links: BTreeMap<u32, (Link, bool)>,
    others: Vec<Event>,
    settings: Vec<SettingEvent>,
}

impl Heard {
    fn take(&mut self, event: Event) {
        match event {
            Event::Link { link, gone } => {
                self.links.insert(link.index, (*link, gone));
            }
            other => self.others.push(other),
        }
    }

    /// What to look at for them. Pods come and go, and their agent's own doing is nothing to look at.
    fn concern(&self, node: &Node) -> Due {
        let book = node.journal.book();
        let committed = || book.attachments.values().filter(|record| record.state == State::Committed);
        let mut due = Due::default();
        for (link, gone) in self.links.values() {
            if !link.name.starts_with(HOST_IFNAME_PREFIX) {
                due |= Due::ENIS;
            }
            let theirs = |record: &&Arc<Record>| {
                record.host_ifindex == Some(link.index) || record.host_ifname == link.name
            };
            if committed().find(theirs).is_some_and(|record| *gone || !is_as_made(record, link)) {
                due |= Due::PODS;
            }
        }
        for event in &self.others {
            due |= match event {
                Event::Link { .. } | Event::Address => Due::ENIS,
                Event::Neighbour { ip, .. } if book.enis.values().any(|eni| eni::is_gateway(eni, *ip)) => {
                    Due::ENIS
                }
                Event::Neighbour { .. } => Due::default(),
                Event::DefaultRoute => Due::ENIS,
                Event::Route { ip, ifindex, ours, gone } => {
                    let right = book.owner_of(*ip).map(|owner| *ours && *ifindex == owner.host_ifindex);
                    match (right, gone) {
                        // An owner's route went, or another came in its place.
                        (Some(right), gone) if *gone || !right => Due::PODS,
                        (None, false) if *ours => Due::PODS,
                        _ => Due::default(),
                    }
                }
                Event::Overrun => Due::ALL,
            };
        }
        for SettingEvent { of, forwarding } in &self.settings {
            due |= match of {
                SettingOf::All => Due { enis: true, pods: true, dataplane: false },
                SettingOf::Device(index) => {
                    let pods = committed().any(|record| record.host_ifindex == Some(*index));
                    let enis = node.enis.borrow().iter().any(|eni| eni.ifindex == Some(*index));
                    Due { enis, pods: pods && *forwarding == Some(false), dataplane: false }
                }
            };
        }
        due
    }
}

fn is_as_made(record: &Record, link: &Link) -> bool {
    link.up
        && link.name == record.host_ifname
        && link.mtu == record.mtu
        && MacText(link.mac).to_string() == record.host_mac
}
