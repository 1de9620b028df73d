//! A cloud that lists ENIs as they were a while ago: what the controller has done itself it knows.

use std::net::IpAddr;
use std::time::Duration;

use ipam_agent::controller::ControllerConfig;
use ipam_lab::cloud_server::{FaultKind, When};
use ipam_lab::cluster::eventually;
use ipam_lab::control_plane::ControlPlane;

use crate::tools::*;

/// How long every Describe lags.
const LAG: Duration = Duration::from_millis(400);

fn start(plane: &ControlPlane, config: ControllerConfig) {
    let stale = FaultKind::StaleDescribe(LAG);
    plane.cloud.faults().add(Some("DescribeNetworkInterfaces"), When::Always, stale);
    plane.start_controller_over(plane.provider_settling(2 * LAG).unwrap(), config, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_gets_one_eni() {
    let (plane, _dir) = plane().await;
    start(&plane, eager());
    for node in ["node-a", "node-b"] {
        eventually("an ENI", async || !enis_on(&plane, node).is_empty()).await.unwrap();
    }
    // Its arrival is news, and every news is a reason to look.
    tokio::time::sleep(3 * LAG).await;
    for node in ["node-a", "node-b"] {
        let ids: Vec<String> = enis_on(&plane, node).into_iter().map(|eni| eni.id).collect();
        assert_eq!(ids.len(), 1, "{node}: {ids:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_was_just_taken_off_is_put_on_for_the_next_pod() {
    let (plane, _dir) = plane().await;
    start(&plane, eager());
    for round in 0..4 {
        let pod = format!("job-{round}");
        let ip = plane.pod(&pod, "node-a", false).await.unwrap();
        let address: IpAddr = ip.parse().unwrap();
        let holder = plane.cloud.snapshot().holder(address).map(|eni| eni.id.clone());
        assert_eq!(holder.as_ref(), Some(&enis_on(&plane, "node-a")[0].id), "{pod} at {ip}");
        // Free long before a Describe shows that it is off.
        plane.end_pod(&pod, &ip).await.unwrap();
    }
}
