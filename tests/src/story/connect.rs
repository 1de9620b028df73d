//! Steps: pods come up and talk.

use anyhow::ensure;

use super::tools::talk;
use super::{PING, STATIC, Seen, Stage};
use crate::lab::traffic::ping;

pub async fn pods_come_up(stage: &mut Stage) -> Seen {
    let mut lines = Vec::new();
    for (name, node, is_static) in [
        ("web-0", "node-a", true),
        ("web-1", "node-b", true),
        ("job-0", "node-a", false),
        ("job-1", "node-b", false),
    ] {
        let start = std::time::Instant::now();
        let annotations = if is_static { &[STATIC][..] } else { &[] };
        let pod = stage.cluster.run_pod(name, node, annotations).await?;
        let ip = pod.ip();
        let status = stage.vip(ip).await?.unwrap_or_default();
        ensure!(status.node_name.as_deref() == Some(node) && status.epoch == 1, "{name}: {status:?}");
        let kind = if is_static { "static" } else { "plain" };
        let eni = stage.eni_of(ip).await?;
        lines.push(format!("{name} ({kind}) on {node}: {ip} on {eni}, {}", super::millis(start.elapsed())));
        stage.pods.put(name, pod);
    }
    Ok(lines)
}

pub async fn same_node(stage: &mut Stage) -> Seen {
    let (a, b) = (stage.ip("web-0"), stage.ip("job-0"));
    let eni = stage.eni_of(a).await?;
    let before = stage.cluster.lab.fabric().from_eni(&eni, a)?;
    let told = talk(stage.pods.get("web-0").sandbox.ns(), a, stage.pods.get("job-0").sandbox.ns(), b)?;
    let after = stage.cluster.lab.fabric().from_eni(&eni, a)?;
    ensure!(before == after, "the fabric saw packets from {a}: {before:?} → {after:?}");
    Ok(vec![told, format!("the fabric counted no packet of {a} meanwhile")])
}

pub async fn across_nodes(stage: &mut Stage) -> Seen {
    let mut lines = Vec::new();
    for (from, to) in [("web-0", "web-1"), ("job-1", "job-0")] {
        let (a, b) = (stage.ip(from), stage.ip(to));
        lines.push(talk(stage.pods.get(from).sandbox.ns(), a, stage.pods.get(to).sandbox.ns(), b)?);
        for ip in [a, b] {
            let eni = stage.eni_of(ip).await?;
            let counted = stage.cluster.lab.fabric().from_eni(&eni, ip)?;
            ensure!(counted.packets > 0, "the fabric counted nothing from {ip} on {eni}");
            lines.push(format!("the fabric counted {} packets from {ip} on {eni}", counted.packets));
        }
    }
    let foreign = stage.cluster.lab.fabric().all_foreign()?;
    ensure!(foreign.is_empty(), "packets came by an ENI that does not own their source: {foreign:?}");
    lines.push("and no packet by an ENI that does not own its source".into());
    Ok(lines)
}

pub async fn vpc_host(stage: &mut Stage) -> Seen {
    let host = stage.host.ip();
    let web = stage.ip("web-0");
    Ok(vec![
        talk(stage.pods.get("web-0").sandbox.ns(), web, stage.host.ns(), host)?,
        talk(stage.host.ns(), host, stage.pods.get("web-0").sandbox.ns(), web)?,
    ])
}

pub async fn spoofing(stage: &mut Stage) -> Seen {
    let (liar, victim) = ("job-0", stage.ip("web-1"));
    let pod = stage.pods.get(liar);
    let ns = pod.sandbox.ns();
    ns.rtnl().add_address(ns.rtnl().index("eth0")?, victim, 32)?;
    let status = ns
        .command("ping")
        .args(["-c1", "-W1", "-I"])
        .args([victim.to_string(), stage.host.ip().to_string()])
        .output()?;
    let removed = ns.command("ip").args(["addr", "del", &format!("{victim}/32"), "dev", "eth0"]).status()?;
    ensure!(removed.success(), "the lie was not taken back");
    ensure!(!status.status.success(), "the lie was heard: {}", String::from_utf8_lossy(&status.stdout));
    let drops = stage.cluster.node("node-a").drops()?;
    let counted = drops.get(&(ipam_common::DropReason::UnknownSource as u32)).copied().unwrap_or_default();
    ensure!(counted > 0, "no drop was counted for it: {drops:?}");
    ping(ns, stage.host.ip(), PING)?;
    Ok(vec![format!(
        "{liar} as {victim}: dropped on its node, counted as unknown_source; as itself it is heard"
    )])
}
