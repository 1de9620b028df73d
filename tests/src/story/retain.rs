//! Steps: what is kept, and what goes back.

use anyhow::ensure;
use ipam_agent::api::{IpPhase, VpcIPClaim};
use kube::api::DeleteParams;

use super::tools::talk;
use super::{STATIC, Seen, Stage};
use crate::cluster::eventually;

pub async fn moves(stage: &mut Stage) -> Seen {
    let ip = stage.ip("web-0");
    let old_eni = stage.eni_of(ip).await?;
    let old = stage.pods.take("web-0");
    stage.cluster.end_pod(old).await?;
    eventually(
        "the address to be retained",
        async || matches!(stage.vip(ip).await, Ok(Some(vip)) if vip.phase == IpPhase::Retained),
    )
    .await?;
    let new = stage.cluster.run_pod("web-0", "node-b", &[STATIC]).await?;
    ensure!(new.ip() == ip, "web-0 had {ip} and now has {}", new.ip());
    let vip = stage.vip(ip).await?.unwrap_or_default();
    ensure!(vip.epoch == 2 && vip.node_name.as_deref() == Some("node-b"), "{vip:?}");
    let new_eni = stage.eni_of(ip).await?;
    ensure!(
        new_eni != old_eni && stage.cluster.lab.fabric().owner(ip).as_deref() == Some(new_eni.as_str()),
        "{ip} did not move from {old_eni}"
    );
    let told = talk(stage.host.ns(), stage.host.ip(), new.sandbox.ns(), ip)?;
    let counted = stage.cluster.lab.fabric().from_eni(&new_eni, ip)?;
    ensure!(counted.packets > 0, "no answer came through {new_eni}");
    stage.pods.put("web-0", new);
    Ok(vec![format!("{ip}: {old_eni} on node-a → {new_eni} on node-b, epoch 1 → 2"), told])
}

pub async fn goes_back(stage: &mut Stage) -> Seen {
    let pod = stage.pods.take("job-0");
    let ip = pod.ip();
    stage.cluster.end_pod(pod).await?;
    let start = std::time::Instant::now();
    eventually("the address to be free", async || matches!(stage.vip(ip).await, Ok(None))).await?;
    ensure!(stage.cluster.lab.fabric().owner(ip).is_none(), "{ip} is still on an ENI");
    let claims = stage.cluster.api::<VpcIPClaim>();
    eventually("the claim to be gone", async || matches!(claims.get_opt("job-0").await, Ok(None))).await?;
    Ok(vec![format!("{ip}: off its ENI and, after the cooldown, free ({})", super::millis(start.elapsed()))])
}

pub async fn delete_waits(stage: &mut Stage) -> Seen {
    let pod = stage.pods.take("web-1");
    let ip = pod.ip();
    let claims = stage.cluster.api::<VpcIPClaim>();
    if stage.cluster.has_kubectl() {
        stage.cluster.kubectl(&["delete", "vipc", "web-1", "--wait=false"])?;
    } else {
        claims.delete("web-1", &DeleteParams::default()).await?;
    }
    eventually("the condition DeletionPendingInUse", async || {
        let claim = claims.get_opt("web-1").await.ok().flatten();
        claim.and_then(|claim| claim.status).is_some_and(|status| {
            status.conditions.iter().any(|c| c.type_ == "DeletionPendingInUse" && c.status == "True")
        })
    })
    .await?;
    let mut lines = vec![talk(pod.sandbox.ns(), ip, stage.host.ns(), stage.host.ip())?];
    lines.insert(0, format!("deleted, and {ip} still serves: DeletionPendingInUse"));
    stage.cluster.end_pod(pod).await?;
    eventually("claim and address to be gone", async || {
        matches!(claims.get_opt("web-1").await, Ok(None)) && matches!(stage.vip(ip).await, Ok(None))
    })
    .await?;
    lines.push(format!("the pod ended: claim gone, {ip} free"));
    Ok(lines)
}
