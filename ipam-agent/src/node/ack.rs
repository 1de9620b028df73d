//! Acknowledges detaches: tells the API that nothing on this node uses an address any more.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tracing::{info, warn};

use crate::{
    api::{Detached, IpPhase, VpcIP},
    node::context::Node,
};

/// After a failed patch.
const RETRY: Duration = Duration::from_secs(1);

/// Acknowledges until the process ends. Begun only after the node was tidied up: what an old agent left behind is use.
pub async fn keep(node: Arc<Node>, client: Client) {
    let api: Api<VpcIP> = Api::all(client);
    let mut bindings = node.bindings.watch();
    let mut journal = node.journal.watch();
    loop {
        // Seen before the look, so that what comes during it is looked at again.
        bindings.mark_unchanged();
        journal.mark_unchanged();
        let again = acknowledge(&node, &api).await;
        tokio::select! {
            changed = bindings.changed() => if changed.is_err() { return },
            changed = journal.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if again => {}
        }
    }
}

/// Acknowledges everything that can be. Answers whether to try again soon.
async fn acknowledge(node: &Node, api: &Api<VpcIP>) -> bool {
    let all = node.bindings.all();
    node.fence.retain(|uid| all.iter().any(|vpc_ip| vpc_ip.metadata.uid.as_deref() == Some(uid)));
    let mut again = false;
    for vpc_ip in all {
        let Some((uid, epoch)) = waits_for_us(&vpc_ip, &node.config.node_name) else { continue };
        let in_use = || match vpc_ip.spec.ip.parse() {
            Ok(ip) => node.journal.book().uses(ip, &uid, epoch),
            // No attachment of ours can have it.
            Err(_) => false,
        };
        if node.fence.close(&uid, epoch, in_use) {
            again |= !patch(api, &vpc_ip, &uid, epoch).await;
        }
    }
    again
}

/// UID and epoch of an address whose detach this node has yet to acknowledge.
fn waits_for_us(vpc_ip: &VpcIP, node_name: &str) -> Option<(String, i64)> {
    let status = vpc_ip.status.as_ref()?;
    let ours = status.phase == IpPhase::Detaching && status.node_name.as_deref() == Some(node_name);
    let acknowledged = status.detached.as_ref().is_some_and(|detached| detached.epoch >= status.epoch);
    (ours && !acknowledged).then_some((vpc_ip.uid()?, status.epoch))
}

/// Writes the acknowledgement, only to the very object that was looked at. Answers whether nothing is left to do: a
/// mismatch is no error, the watch brings the newer state.
async fn patch(api: &Api<VpcIP>, vpc_ip: &VpcIP, uid: &str, epoch: i64) -> bool {
    let name = vpc_ip.name_any();
    let detached = Detached { epoch, at: Time(jiff::Timestamp::now()) };
    let patch = json!({
        "metadata": { "uid": uid, "resourceVersion": vpc_ip.resource_version() },
        "status": { "detached": detached },
    });
    match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => {
            info!(ip = name, epoch, "acknowledged: nothing here uses the address any more");
            true
        }
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
            info!(ip = name, epoch, reason = status.message, "not acknowledged: the address has changed");
            true
        }
        Err(error) => {
            warn!(ip = name, epoch, %error, "cannot acknowledge a detach; trying again");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{VpcIPSpec, VpcIPStatus, VpcIPType};

    #[test]
    fn only_an_open_detach_of_this_node_is_acknowledged() {
        let object = |phase, node: &str, acknowledged: Option<i64>| {
            let spec = VpcIPSpec {
                type_: VpcIPType::Pod,
                ip: "10.0.0.5".into(),
                subnet_id: "s".into(),
                claim_ref: None,
            };
            let mut object = VpcIP::new("10.0.0.5", spec);
            object.metadata.uid = Some("uid".into());
            let at = Time(jiff::Timestamp::UNIX_EPOCH);
            object.status = Some(VpcIPStatus {
                phase,
                node_name: Some(node.into()),
                epoch: 4,
                detached: acknowledged.map(|epoch| Detached { epoch, at }),
                ..Default::default()
            });
            object
        };
        let open = Some(("uid".to_owned(), 4));
        assert_eq!(waits_for_us(&object(IpPhase::Detaching, "n1", None), "n1"), open);
        assert_eq!(waits_for_us(&object(IpPhase::Detaching, "n1", Some(3)), "n1"), open, "an older epoch's");
        assert_eq!(waits_for_us(&object(IpPhase::Detaching, "n1", Some(4)), "n1"), None);
        assert_eq!(waits_for_us(&object(IpPhase::Detaching, "n2", None), "n1"), None);
        assert_eq!(waits_for_us(&object(IpPhase::Bound, "n1", None), "n1"), None);
    }
}
