//! Records that were lost while what they recorded lives on: an address that a claim names and that has no `VpcIP`.
//!
//! Only this controller deletes such an object, and not before the claim has let go of the address. So it was deleted by
//! mistake, or is missing in a backup that was restored; the pod has its address all the same. The claim's status says
//! what the object said, and the cloud on which ENI the address is. Creating the object is the lock, as ever: when
//! somebody else has taken the address meanwhile, it is not restored.

use std::net::IpAddr;

use kube::ResourceExt;
use kube::api::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use tracing::warn;

use super::context::Context;
use super::error::ReconcileError;
use super::write;
use crate::api::{
    ClaimPhase, ClaimRef, IpPhase, VpcIP, VpcIPClaim, VpcIPClaimStatus, VpcIPSpec, VpcIPStatus, VpcIPType,
};

/// Where an address is, by the cloud's word.
struct Place {
    subnet_id: String,
    eni_id: Option<String>,
}

/// Makes the object of an address again that the claim names. `None`: it is another's by now, or was never bound, so that
/// any other would do.
pub async fn restore(
    claim: &VpcIPClaim,
    name: &str,
    context: &Context,
) -> Result<Option<VpcIP>, ReconcileError> {
    let Some(status) = claim.status.as_ref().filter(|status| status.epoch > 0) else { return Ok(None) };
    let named: Vec<IpAddr> = status.all_addresses().filter_map(|text| text.parse().ok()).collect();
    let Some(&address) = named.iter().find(|ip| VpcIP::name_of(**ip) == name) else { return Ok(None) };
    let Some(place) = place_of(status, address, context).await? else { return Ok(None) };
    let names: Vec<String> = named.into_iter().map(VpcIP::name_of).collect();
    let mut restored = restored_status(status, place.eni_id, names);
    restored.fencing = claim.spec.fencing;
    let spec = VpcIPSpec {
        type_: VpcIPType::Pod,
        ip: address.to_string(),
        subnet_id: place.subnet_id,
        claim_ref: Some(ClaimRef {
            namespace: claim.namespace().unwrap_or_default(),
            name: claim.name_any(),
            uid: claim.uid().unwrap_or_default(),
        }),
    };
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let object = VpcIP { metadata, spec, status: None };
    let Some(created) = write::create(&context.ips(), &object).await? else { return Ok(None) };
    warn!(ip = name, claim = claim.name_any(), phase = ?restored.phase, epoch = restored.epoch, "its record was lost: made again");
    write::status(&context.ips(), &created, |ip| ip.status = Some(restored)).await.map(Some)
}

/// What the lost object said. Of an address that is on no ENI nobody makes use.
fn restored_status(claim: &VpcIPClaimStatus, eni_id: Option<String>, names: Vec<String>) -> VpcIPStatus {
    let phase = match claim.phase {
        ClaimPhase::Retained => IpPhase::Retained,
        _ if eni_id.is_none() => IpPhase::Allocated,
        ClaimPhase::Detaching => IpPhase::Detaching,
        _ => IpPhase::Bound,
    };
    VpcIPStatus {
        phase,
        node_name: claim.node_name.clone().filter(|_| eni_id.is_some()),
        eni_id,
        pod_uid: claim.pod_uid.clone(),
        together: if names.len() > 1 { names } else { Vec::new() },
        epoch: claim.epoch,
        ..VpcIPStatus::default()
    }
}

/// The ENI of the claim's node that has the address, or else the subnet that it lies in.
async fn place_of(
    status: &VpcIPClaimStatus,
    address: IpAddr,
    context: &Context,
) -> Result<Option<Place>, ReconcileError> {
    let node = status.node_name.as_deref().unwrap_or_default();
    if let Some(config) = context.stores.configs.get(&ObjectRef::new(node)) {
        let enis = context.provider.enis_of(&config.spec.instance_id).await?;
        let holds = |assignable: &Vec<IpAddr>| assignable.contains(&address);
        let eni = enis.into_iter().find(|eni| {
            !eni.primary
                && (eni.secondary_ips.contains(&address) || eni.assignable.as_ref().is_some_and(holds))
        });
        if let Some(eni) = eni {
            return Ok(Some(Place { subnet_id: eni.subnet_id, eni_id: Some(eni.id) }));
        }
    }
    let subnets = context.provider.subnets().await?;
    let subnet = subnets.into_iter().find(|subnet| match address {
        IpAddr::V4(ip) => subnet.cidr.contains(&ip),
        IpAddr::V6(ip) => subnet.ipv6.is_some_and(|ipv6| ipv6.cidr.contains(&ip)),
    });
    Ok(subnet.map(|subnet| Place { subnet_id: subnet.id, eni_id: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_as_its_claim_says() {
        let claim = |phase| VpcIPClaimStatus {
            phase,
            address: Some("10.0.1.7".into()),
            node_name: Some("n1".into()),
            pod_uid: Some("pod".into()),
            epoch: 4,
            ..VpcIPClaimStatus::default()
        };
        let restored = |phase, eni: Option<&str>| {
            let names = vec!["10.0.1.7".to_owned()];
            restored_status(&claim(phase), eni.map(str::to_owned), names)
        };
        let bound = restored(ClaimPhase::Bound, Some("eni-1"));
        assert_eq!((bound.phase, bound.epoch, bound.node_name.as_deref()), (IpPhase::Bound, 4, Some("n1")));
        assert!(bound.together.is_empty() && bound.pod_uid.as_deref() == Some("pod"));
        assert_eq!(restored(ClaimPhase::Detaching, Some("eni-1")).phase, IpPhase::Detaching);
        assert_eq!(restored(ClaimPhase::Retained, Some("eni-1")).phase, IpPhase::Retained);
        let nowhere = restored(ClaimPhase::Bound, None);
        assert_eq!((nowhere.phase, nowhere.node_name, nowhere.epoch), (IpPhase::Allocated, None, 4));
        let both =
            restored_status(&claim(ClaimPhase::Bound), Some("eni-1".into()), vec!["a".into(), "b".into()]);
        assert_eq!(both.together, ["a", "b"]);
    }
}
