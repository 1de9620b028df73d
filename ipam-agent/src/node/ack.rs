//! Acknowledges detaches: tells the API that nothing on this node uses an address any more, when the controller asks for
//! it, and unasked when the pod has ended.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tracing::{info, warn};

use crate::{
    api::{Detached, IpPhase, VpcIP, VpcIPType},
    client::{is_refusal, live},
    node::{context::Node, journal::Change},
};

/// After a failed patch.
const RETRY: Duration = Duration::from_secs(1);

/// Acknowledges until the process ends. Begun only after the node was tidied up: what an old agent left behind is use.
pub async fn keep(node: Arc<Node>, client: Client) {
    let mut bindings = node.bindings.watch();
    let mut journal = node.journal.watch();
    let mut told = HashMap::new();
    loop {
        // Seen before the look, so that what comes during it is looked at again.
        bindings.mark_unchanged();
        journal.mark_unchanged();
        let again = acknowledge(&node, &client, &mut told).await;
        tokio::select! {
            changed = bindings.changed() => if changed.is_err() { return },
            changed = journal.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if again => {}
        }
    }
}

/// Acknowledges everything that can be, but for what was, by UID and version of the `VpcIP`: the watch has only not brought
/// the newer version yet. Answers whether to try again soon.
async fn acknowledge(node: &Node, client: &Client, told: &mut HashMap<String, Option<String>>) -> bool {
    let api: Api<VpcIP> = Api::all(client.clone());
    let all = node.bindings.all();
    let is_ours = |uid: &str| all.iter().any(|vpc_ip| vpc_ip.metadata.uid.as_deref() == Some(uid));
    node.fence.retain(is_ours);
    node.departed.retain(is_ours);
    told.retain(|uid, _| is_ours(uid));
    let mut again = false;
    // All addresses of a pod have the same time, or they would not expire together.
    let now = Time(jiff::Timestamp::now());
    for vpc_ip in &all {
        let Some((uid, epoch, asked)) = may_be_over(vpc_ip, &node.config.node_name) else { continue };
        if told.get(&uid) == Some(&vpc_ip.resource_version()) {
            continue;
        }
        let in_use = || match vpc_ip.spec.ip.parse() {
            Ok(ip) => node.journal.book().uses(ip, &uid, epoch),
            // No attachment of ours can have it.
            Err(_) => false,
        };
        if !asked {
            if in_use() {
                node.departed.forget(&uid);
                continue;
            }
            match node.departed.has_ended(client, &uid, epoch).await {
                Some(true) => {}
                Some(false) => continue,
                None => {
                    again = true;
                    continue;
                }
            }
        }
        if node.fence.close(&uid, epoch, in_use) {
            // First on the disk: an agent that starts without the API must not serve what was acknowledged.
            if let Err(error) = node.journal.change(Change::Unbind(Arc::clone(vpc_ip))).await {
                warn!(ip = vpc_ip.name_any(), %error, "not acknowledged; trying again");
                again = true;
                continue;
            }
            match tell(&api, vpc_ip, &uid, Detached { epoch, at: now.clone() }).await {
                Told::Done => {
                    node.departed.forget(&uid);
                    told.insert(uid, vpc_ip.resource_version());
                }
                Told::StillBound(bound) => {
                    again = true;
                    node.fence.reopen(&uid, epoch);
                    if let Err(error) = node.journal.change(Change::Rebind(bound)).await {
                        warn!(ip = vpc_ip.name_any(), %error, "cannot write down that a binding goes on");
                    }
                }
                Told::NotYet => again = true,
            }
        }
    }
    again
}

/// UID and epoch of an address of this node whose detach it has not acknowledged, and whether the controller asks for
/// that.
fn may_be_over(vpc_ip: &VpcIP, node_name: &str) -> Option<(String, i64, bool)> {
    let status = vpc_ip.status.as_ref()?;
    let asked = status.phase == IpPhase::Detaching;
    let ours = (asked || status.phase == IpPhase::Bound) && status.node_name.as_deref() == Some(node_name);
    (ours && !status.is_let_go() && vpc_ip.spec.type_ == VpcIPType::Pod).then_some((
        vpc_ip.uid()?,
        status.epoch,
        asked,
    ))
}

/// What became of an acknowledgement.
#[derive(Debug)]
enum Told {
    /// It was written, or there is nothing to acknowledge any more: the watch brings the newer state.
    Done,
    /// It was not written, for the object has changed meanwhile, and this is the binding as it goes on. It is not over
    /// before that is looked at.
    StillBound(Arc<VpcIP>),
    /// Whether it was written is not known.
    NotYet,
}

/// Writes the acknowledgement, only to the very object that was looked at.
async fn tell(api: &Api<VpcIP>, vpc_ip: &VpcIP, uid: &str, detached: Detached) -> Told {
    let name = vpc_ip.name_any();
    let epoch = detached.epoch;
    let patch = json!({
        "metadata": { "uid": uid, "resourceVersion": vpc_ip.resource_version() },
        "status": { "phase": IpPhase::Retained, "detached": detached },
    });
    match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => {
            info!(ip = name, epoch, "acknowledged: nothing here uses the address any more");
            Told::Done
        }
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
            info!(ip = name, epoch, reason = status.message, "not acknowledged: the address has changed");
            match live(api, &name).await {
                Ok(Some(now)) if is_same_binding(&now, vpc_ip) => Told::StillBound(Arc::new(now)),
                Ok(_) => Told::Done,
                Err(error) => {
                    info!(ip = name, epoch, %error, "cannot see what has become of the address; trying again");
                    Told::NotYet
                }
            }
        }
        Err(error) => {
            if !is_refusal(&error) {
                warn!(ip = name, epoch, %error, "cannot acknowledge a detach; trying again");
            }
            Told::NotYet
        }
    }
}

/// Whether an address is bound as it was, and nobody has said that this is over.
fn is_same_binding(now: &VpcIP, was: &VpcIP) -> bool {
    let (now_status, was_status) = (now.state(), was.state());
    now.uid() == was.uid()
        && now_status.phase == IpPhase::Bound
        && now_status.node_name == was_status.node_name
        && now_status.epoch == was_status.epoch
        && !now_status.is_let_go()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{VpcIPSpec, VpcIPStatus},
        client::scripted,
    };

    /// An address that is bound here with epoch 4.
    fn bound() -> VpcIP {
        let spec = VpcIPSpec {
            type_: VpcIPType::Pod,
            ip: "10.0.0.5".into(),
            subnet_id: "s".into(),
            claim_ref: None,
        };
        let mut object = VpcIP::new("10.0.0.5", spec);
        (object.metadata.uid, object.metadata.resource_version) = (Some("uid".into()), Some("7".into()));
        object.status = Some(VpcIPStatus {
            phase: IpPhase::Bound,
            node_name: Some("n1".into()),
            epoch: 4,
            ..Default::default()
        });
        object
    }

    /// What becomes of an acknowledgement that is answered so, of an address that is this now.
    async fn told(patched: (u16, &str), now: Result<VpcIP, (u16, &str)>) -> Told {
        let refusal = |(code, reason): (u16, &str)| {
            let details = json!({ "name": "10.0.0.5", "kind": "vpcips" });
            (code, json!({ "status": "Failure", "code": code, "reason": reason, "details": details }))
        };
        let patched = refusal(patched);
        let now = now.map_or_else(refusal, |now| (200, serde_json::to_value(now).unwrap()));
        let client = scripted::client(move |request| {
            if request.method() == http::Method::PATCH { patched.clone() } else { now.clone() }
        });
        let at = Time(jiff::Timestamp::UNIX_EPOCH);
        tell(&Api::all(client), &bound(), "uid", Detached { epoch: 4, at }).await
    }

    #[tokio::test]
    async fn an_acknowledgement_that_was_not_written_leaves_the_binding_open_only_if_the_api_says_so() {
        let conflict = (409, "Conflict");
        let but = |change: fn(&mut VpcIP)| {
            let mut object = bound();
            change(&mut object);
            Ok(object)
        };
        fn status(object: &mut VpcIP) -> &mut VpcIPStatus {
            object.status.as_mut().unwrap()
        }
        let told_other = told(conflict, but(|ip| status(ip).message = "other words".into())).await;
        assert!(matches!(told_other, Told::StillBound(now) if now.state().message == "other words"));
        for over in [
            but(|ip| status(ip).epoch = 5),
            but(|ip| status(ip).phase = IpPhase::Detaching),
            but(|ip| ip.metadata.uid = Some("another".into())),
            but(|ip| status(ip).node_name = Some("n2".into())),
            but(|ip| {
                status(ip).detached = Some(Detached { epoch: 4, at: Time(jiff::Timestamp::UNIX_EPOCH) });
            }),
            Err((404, "NotFound")),
        ] {
            assert!(matches!(told(conflict, over.clone()).await, Told::Done), "{over:?}");
        }
        assert!(matches!(told((404, "NotFound"), Ok(bound())).await, Told::StillBound(_)), "was it there?");
        for away in [(404, "a proxy's page"), (500, "InternalError"), (403, "Forbidden")] {
            assert!(matches!(told(conflict, Err(away)).await, Told::NotYet), "{away:?}");
        }
        assert!(matches!(told((500, "InternalError"), Ok(bound())).await, Told::NotYet));
    }

    #[test]
    fn only_an_open_binding_of_this_node_is_acknowledged() {
        let object = |phase, node: &str, acknowledged: Option<i64>| {
            let mut object = bound();
            let status = object.status.as_mut().unwrap();
            let at = Time(jiff::Timestamp::UNIX_EPOCH);
            (status.phase, status.node_name) = (phase, Some(node.into()));
            status.detached = acknowledged.map(|epoch| Detached { epoch, at });
            object
        };
        let open = |asked| Some(("uid".to_owned(), 4, asked));
        for (phase, asked) in [(IpPhase::Detaching, true), (IpPhase::Bound, false)] {
            assert_eq!(may_be_over(&object(phase, "n1", None), "n1"), open(asked));
            assert_eq!(may_be_over(&object(phase, "n1", Some(3)), "n1"), open(asked), "an older epoch's");
            assert_eq!(may_be_over(&object(phase, "n1", Some(4)), "n1"), None);
            assert_eq!(may_be_over(&object(phase, "n2", None), "n1"), None);
        }
        for phase in [IpPhase::Attaching, IpPhase::Retained, IpPhase::Cooldown] {
            assert_eq!(may_be_over(&object(phase, "n1", None), "n1"), None);
        }
    }
}
