//! Steps: what an operator sees, and what a killed agent breaks.

use anyhow::{Context, ensure};

use super::{Seen, Stage};
use crate::lab::traffic::UdpStream;

pub async fn objects(stage: &mut Stage) -> Seen {
    let text = if stage.cluster.has_kubectl() {
        stage.cluster.kubectl(&["get", "vip,vipc,nec", "--all-namespaces"])?
    } else {
        stage.cluster.ipamctl(&["get", "vip,vipc,nec"])?
    };
    for pod in ["web-0", "web-1", "job-0", "job-1"] {
        let ip = stage.ip(pod).to_string();
        ensure!(text.matches(&ip).count() >= 2, "{ip} of {pod} is missing in:\n{text}");
    }
    for node in ["node-a", "node-b"] {
        ensure!(text.matches(node).count() > 1, "{node} is missing in:\n{text}");
    }
    Ok(text.lines().map(str::to_owned).collect())
}

pub async fn map(stage: &mut Stage) -> Seen {
    let node = stage.cluster.node("node-a");
    let path = node.machine().bpffs_dir().join("POD_ROUTES_V4");
    let routes = node.dump("POD_ROUTES_V4")?;
    let web = stage.ip("web-0").octets();
    let of_web = routes
        .iter()
        .find(|entry| entry["formatted"]["key"]["octets"] == serde_json::json!(web))
        .with_context(|| format!("no entry of {web:?} in {routes:?}"))?;
    let value = &of_web["formatted"]["value"];
    ensure!(
        value["epoch"] == 1 && value["eni"].as_u64() > Some(0) && value["ifindex"].as_u64() > Some(0),
        "{value}"
    );
    let shown = std::process::Command::new("bpftool").args(["map", "dump", "pinned"]).arg(&path).output()?;
    let mut lines = vec!["bpftool map dump pinned …/POD_ROUTES_V4".to_owned()];
    lines.extend(String::from_utf8_lossy(&shown.stdout).lines().map(str::to_owned));
    Ok(lines)
}

pub async fn agent_killed(stage: &mut Stage) -> Seen {
    let to = stage.ip("web-0");
    let from_ns = stage.pods.get("job-1").sandbox.clone();
    let to_ns = stage.pods.get("web-0").sandbox.clone();
    // Across the ENI in both directions: a VPC host to the pod, and a pod of the node to another.
    let in_stream = UdpStream::start(stage.host.ns(), to_ns.ns(), (to, 7001).into(), 5000)?;
    let local_stream = UdpStream::start(from_ns.ns(), to_ns.ns(), (to, 7002).into(), 5000)?;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let node = stage.cluster.node_mut("node-b");
    node.agent().kill9()?;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    node.start_agent(&[])?;
    node.wait_until_served().await?;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let mut lines = Vec::new();
    for (name, stream) in [("VPC host → web-0", in_stream), ("job-1 → web-0", local_stream)] {
        let report = stream.stop()?;
        ensure!(report.lost == 0, "{name}: {report:?}");
        lines.push(format!(
            "{name}: {} sent, {} lost, longest gap {}",
            report.sent,
            report.lost,
            super::millis(report.longest_gap)
        ));
    }
    Ok(lines)
}
