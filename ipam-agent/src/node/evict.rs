//! Disconnects pods whose binding is over although no DEL came: their node was given up for lost and is back, or their
//! address was taken from them by force. Only the word of the API that the binding is over counts; that the API is
//! away, or knows nothing of an address, disconnects nobody.

use std::{sync::Arc, time::Duration};

use kube::{Api, Client};
use tracing::warn;

use crate::{
    api::{IpPhase, VpcIP},
    node::{
        context::Node,
        journal::{BoundAddress, State},
    },
};

/// How often attachments are compared when nothing that this node hears of has changed.
const PERIOD: Duration = Duration::from_secs(60);
/// After an error.
const RETRY: Duration = Duration::from_secs(1);

/// Disconnects until the process ends.
pub async fn keep(node: Arc<Node>, client: Client) {
    let api: Api<VpcIP> = Api::all(client);
    let mut bindings = node.bindings.watch();
    loop {
        bindings.mark_unchanged();
        let may_look = node.bindings.synced() && !node.config.repairs_are_held();
        let pause = if may_look && !look(&node, &api).await { RETRY } else { PERIOD };
        tokio::select! {
            changed = bindings.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Looks at every attachment once. Answers whether nothing is left to do.
async fn look(node: &Arc<Node>, api: &Api<VpcIP>) -> bool {
    let known = node.bindings.all();
    let mut done = true;
    for record in node.journal.book().attachments.values() {
        if record.state != State::Committed {
            continue;
        }
        let mut over = None;
        for address in record.addresses() {
            let seen =
                known.iter().find(|vpc_ip| vpc_ip.metadata.uid.as_deref() == Some(&address.vpc_ip_uid));
            let over_by =
                |vpc_ip: &VpcIP| is_over(&address, record.pod_uid.as_deref(), vpc_ip, &node.config.node_name);
            let its = match seen {
                Some(vpc_ip) => over_by(vpc_ip),
                // It is no longer of this node, or is gone: where it is now, only the API can tell.
                None => match api.get_opt(&address.vpc_ip).await {
                    Ok(vpc_ip) => vpc_ip.is_some_and(|vpc_ip| over_by(&vpc_ip)),
                    Err(_) => {
                        done = false;
                        false
                    }
                },
            };
            over = over.or(its.then_some(address));
        }
        if let Some(BoundAddress { ip, epoch, .. }) = over {
            warn!(key = ?record.key, %ip, epoch, "this binding is over: disconnecting the pod");
            if let Err(error) = node.delete(&record.key).await {
                warn!(key = ?record.key, %error, "cannot disconnect a pod whose binding is over; trying again");
                done = false;
            }
        }
    }
    done
}

/// Whether the API says that a binding has ended. A state older than the binding, as of a restored backup, says nothing;
/// nor does a record that was lost and made anew for the same pod.
pub fn is_over(bound: &BoundAddress, pod_uid: Option<&str>, vpc_ip: &VpcIP, node_name: &str) -> bool {
    let status = vpc_ip.state();
    let here = status.node_name.as_deref() == Some(node_name);
    let known = !bound.vpc_ip_uid.is_empty();
    if known && vpc_ip.metadata.uid.as_deref() != Some(&bound.vpc_ip_uid) {
        // The address was freed and taken anew.
        let by_the_same = here && pod_uid.is_some() && status.pod_uid.as_deref() == pod_uid;
        return status.phase == IpPhase::Bound && !by_the_same;
    }
    if status.epoch != bound.epoch {
        return status.epoch > bound.epoch;
    }
    match status.phase {
        IpPhase::Retained | IpPhase::Cooldown | IpPhase::Quarantined => true,
        IpPhase::Attaching | IpPhase::Bound => {
            status.node_name.as_deref().is_some_and(|name| name != node_name)
        }
        // A pod that is being ended keeps its network until its DEL.
        IpPhase::Allocated | IpPhase::Detaching => false,
    }
}

#[cfg(test)]
mod tests;
