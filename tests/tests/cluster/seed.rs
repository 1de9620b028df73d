//! The seed's commands, one after another on one cluster, each checked and then told on a page.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use ipam_agent::api::{IpPhase, VpcIP, VpcIPClaim};
use ipam_lab::cluster::{Cluster, RunningPod, eventually};
use ipam_lab::lab::traffic::ping;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use std::time::Duration;

use crate::page::Page;
use crate::site::Site;

/// A StatefulSet as it was written for TKE.
const WEB: &str = "\
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: web
spec:
  replicas: 2
  serviceName: web
  selector:
    matchLabels: { app: web }
  template:
    metadata:
      labels: { app: web }
      annotations:
        tke.cloud.tencent.com/vpc-ip-claim-delete-policy: Never
    spec:
      containers:
        - name: web
          image: nginx
";

/// The cluster, and the pods that run on it.
struct Walk {
    cluster: Cluster,
    page: Page,
    pods: BTreeMap<String, RunningPod>,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "no kube-apiserver: set KUBEBUILDER_ASSETS or KUBECONFIG and use `cargo xtask test cluster`"]
async fn the_seeds_commands() {
    let site = Site::installed().await.expect("a server");
    let cluster = Cluster::builder("seed")
        .subnet("subnet-a", "zone-1", "10.0.1.0/24")
        .node("node-a", "zone-1")
        .node("node-b", "zone-1")
        .api(site.api)
        .start()
        .await
        .expect("a cluster");
    let mut walk = Walk { cluster, page: Page::new(site.api.version()), pods: BTreeMap::new() };
    walk.go().await.unwrap_or_else(|error| panic!("{error:#}"));
    walk.page.finish().unwrap_or_else(|error| panic!("{error:#}"));
}

impl Walk {
    async fn go(&mut self) -> Result<()> {
        self.usage().await?;
        self.retention().await?;
        self.manual_reclaim().await?;
        self.cascade().await?;
        self.eni_limit().await?;
        Ok(())
    }

    async fn usage(&mut self) -> Result<()> {
        self.page.title("Who has which address");
        self.page.say(&format!(
            "A StatefulSet written for TKE, with TKE's annotation, and a pod whose address is not kept:\n\n\
             ```yaml\n{WEB}```"
        ));
        fs::write(self.cluster.lab.ctl().dir().join("web.yaml"), WEB)?;
        self.page.run(&self.cluster, "kubectl apply -f web.yaml")?;
        self.start("web-0", "node-a", true).await?;
        self.start("web-1", "node-b", true).await?;
        self.start("job-0", "node-a", false).await?;
        self.page.run(&self.cluster, "kubectl get pods -o wide")?;
        let shown = self.page.run(&self.cluster, "kubectl get vip")?;
        for (name, pod) in &self.pods {
            let row = row_of(&shown, &pod.ip().to_string())?;
            ensure!(row.contains(name.as_str()) && row.contains("Bound"), "{row}");
        }
        self.page.say(
            "A `VpcIP` exists for every address that is taken, an ENI's own among them, so the number of rows (less the\n\
             header) is the number of addresses that the cluster has of its subnets:",
        );
        let elsewhere = self.in_the_making().await?;
        let count = self.page.run(&self.cluster, "kubectl get vip | wc -l")?;
        let of_cloud = self.in_the_cloud();
        ensure!(
            count.trim().parse::<usize>()? == of_cloud + elsewhere + 1,
            "{count} rows, {of_cloud} addresses in the cloud, {elsewhere} that the lab's machines have"
        );
        self.page.run(&self.cluster, "kubectl get vipc")?;
        Ok(())
    }

    async fn retention(&mut self) -> Result<()> {
        self.page.title("Retention: a static pod comes back with its address");
        let old = self.pods["web-0"].ip();
        self.page.run(&self.cluster, "kubectl delete pod web-0 --wait=false")?;
        self.stop("web-0").await?;
        self.phase(old, IpPhase::Retained).await?;
        self.page.say("The pod is gone, its claim and its address are not:");
        let shown = self.page.run(&self.cluster, &format!("kubectl get vipc/web-0 vip/{old}"))?;
        ensure!(row_of(&shown, &format!("vpcip.eni-ipam.dev/{old}"))?.contains("Retained"), "{shown}");
        self.page.say("A pod of the same name, on the other node, has it again:");
        self.start("web-0", "node-b", true).await?;
        ensure!(self.pods["web-0"].ip() == old, "{old} became {}", self.pods["web-0"].ip());
        ping(self.pods["web-1"].sandbox.ns(), old, Duration::from_secs(5))?;
        let shown = self.page.run(&self.cluster, &format!("kubectl get vip {old}"))?;
        ensure!(row_of(&shown, &old.to_string())?.contains("node-b"), "{shown}");
        let job = self.pods["job-0"].ip();
        self.page.say("A pod that is not static gives its address back:");
        self.page.run(&self.cluster, "kubectl delete pod job-0 --wait=false")?;
        self.stop("job-0").await?;
        self.free(job).await?;
        self.page.run(&self.cluster, "kubectl get vip,vipc")?;
        Ok(())
    }

    async fn manual_reclaim(&mut self) -> Result<()> {
        self.page.title("Manual reclamation");
        let [zero, one] = ["web-0", "web-1"].map(|pod| self.pods[pod].ip());
        self.page.say(
            "Of a pod that runs. TKE warns that its network breaks; here the claim waits for the pod, and says so:",
        );
        self.page.run(&self.cluster, "kubectl delete vipc web-0 -n default --wait=false")?;
        let claims = self.cluster.api::<VpcIPClaim>();
        eventually("the condition DeletionPendingInUse", async || {
            let claim = claims.get_opt("web-0").await.ok().flatten();
            claim.and_then(|claim| claim.status).is_some_and(|status| {
                status.conditions.iter().any(|c| c.type_ == "DeletionPendingInUse" && c.status == "True")
            })
        })
        .await?;
        let path =
            "jsonpath='{range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{\"\\n\"}{end}'";
        self.page.run(&self.cluster, &format!("kubectl get vipc web-0 -o {path}"))?;
        ping(self.pods["web-1"].sandbox.ns(), zero, Duration::from_secs(5))?;
        self.page.say("When the pod goes, so do the claim and, after a cooldown, the address:");
        self.page.run(&self.cluster, "kubectl delete pod web-0 --wait=false")?;
        self.stop("web-0").await?;
        self.free(zero).await?;
        self.page.run(&self.cluster, "kubectl get vip,vipc")?;

        self.page.say("Of a pod that is gone: at once.");
        self.page.run(&self.cluster, "kubectl delete pod web-1 --wait=false")?;
        self.stop("web-1").await?;
        self.phase(one, IpPhase::Retained).await?;
        self.page.run(&self.cluster, "kubectl get vip,vipc")?;
        self.page.run(&self.cluster, "kubectl delete vipc web-1 -n default")?;
        self.free(one).await?;
        let shown = self.page.run(&self.cluster, "kubectl get vip,vipc")?;
        ensure!(!shown.contains(&one.to_string()), "{shown}");
        Ok(())
    }

    async fn cascade(&mut self) -> Result<()> {
        self.page.title("Cascading reclamation");
        for (name, node) in [("web-0", "node-a"), ("web-1", "node-b")] {
            self.start(name, node, true).await?;
        }
        let [zero, one] = ["web-0", "web-1"].map(|pod| self.pods[pod].ip());
        self.page.say(
            "As `kubectl edit deploy eni-ipam-controller -n kube-system` would, the controller is restarted with\n\
             `--enable-ownerref`. It holds for the workloads that are there already, too:",
        );
        self.cluster.restart_controller(&["--enable-ownerref"])?;
        self.page.run(&self.cluster, "kubectl get vipc -o wide")?;
        self.page.run(&self.cluster, "kubectl delete statefulset web")?;
        self.page.say("Its pods run for a while yet, and keep their addresses:");
        ping(self.pods["web-1"].sandbox.ns(), zero, Duration::from_secs(5))?;
        self.page.run(&self.cluster, "kubectl get vipc")?;
        self.page.run(&self.cluster, "kubectl delete pod web-0 web-1 --wait=false")?;
        for pod in ["web-0", "web-1"] {
            self.stop(pod).await?;
        }
        self.page.say(
            "A workload is believed gone when it was not there twice, a minute apart. Then claims and addresses are, too:",
        );
        tokio::time::sleep(Duration::from_secs(60)).await;
        for ip in [zero, one] {
            self.free(ip).await?;
        }
        let claims = self.cluster.api::<VpcIPClaim>();
        eventually(
            "the claims to be gone",
            async || matches!(claims.list(&ListParams::default()).await, Ok(list) if list.items.is_empty()),
        )
        .await?;
        self.page.run(&self.cluster, "kubectl get vip,vipc")?;
        Ok(())
    }

    async fn eni_limit(&mut self) -> Result<()> {
        self.page.title("No ENI for a node");
        let enis = self.cluster.cloud.snapshot().enis.iter().filter(|eni| !eni.primary).count();
        self.page.say(&format!(
            "The VPC's quota is what is used already, {enis} ENIs, when a third node joins and a pod is scheduled to it:"
        ));
        self.cluster.cloud.set_eni_quota(enis);
        self.cluster.add_node("node-c", "zone-1").await?;
        self.cluster.node("node-c").wait_until_served().await?;
        let pod = self.cluster.create_pod("job-1", "node-c", &[]).await?;
        let mut refused = None;
        let vips = Api::<VpcIP>::all(self.cluster.client.clone());
        let attaching =
            ListParams::default().fields("status.phase=Attaching,status.nodeName=node-c,spec.type=ENI");
        eventually("an Attaching address with the cloud's words", async || {
            let found = vips.list(&attaching).await.ok().and_then(|list| list.items.into_iter().next());
            refused = found.filter(|ip| !ip.state().message.is_empty());
            refused.is_some()
        })
        .await?;
        let refused = refused.context("found above")?;
        let events = Api::<Event>::all(self.cluster.client.clone());
        let limit = ListParams::default().fields("reason=ENILimit");
        eventually(
            "the event ENILimit",
            async || matches!(events.list(&limit).await, Ok(list) if !list.items.is_empty()),
        )
        .await?;
        let shown = self.page.run(&self.cluster, "kubectl get event --field-selector reason=ENILimit")?;
        ensure!(shown.contains("ENILimit"), "{shown}");
        self.page.say("The node has no ENI, and says why:");
        let shown = self.page.run(&self.cluster, "kubectl get nec node-c -o yaml")?;
        ensure!(!shown.contains("state: Attached"), "{shown}");
        self.page.say("The address that is to be the ENI's own is Attaching, with the cloud's error:");
        let shown = self.page.run(
            &self.cluster,
            "kubectl get vip -o yaml --field-selector status.phase=Attaching,spec.type=ENI",
        )?;
        ensure!(shown.contains("phase: Attaching") && shown.contains("LimitExceeded"), "{shown}");
        self.page.say("When the quota grows, it heals by itself: the address becomes the ENI's, and the pod has its own.");
        self.cluster.cloud.set_eni_quota(enis + 10);
        let running = self.cluster.add_sandbox(&pod, "node-c").await?;
        self.phase(refused.spec.ip.parse()?, IpPhase::Bound).await?;
        let shown =
            self.page.run(&self.cluster, "kubectl get vip --field-selector status.nodeName=node-c")?;
        for ip in [running.ip().to_string(), refused.name_any()] {
            ensure!(row_of(&shown, &ip)?.contains("Bound"), "{shown}");
        }
        let shown = self.page.run(&self.cluster, "kubectl get nec")?;
        ensure!(shown.contains("node-c"), "{shown}");
        Ok(())
    }

    /// Makes a pod as its controller and the scheduler would, and runs it as a kubelet would.
    async fn start(&mut self, name: &str, node: &str, of_web: bool) -> Result<()> {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "app": "job" } },
            "spec": { "nodeName": node, "containers": [{ "name": "job", "image": "busybox" }] },
        }))?;
        if of_web {
            let web = self.cluster.api::<StatefulSet>().get("web").await?;
            let template = web.spec.as_ref().context("the StatefulSet has no spec")?.template.clone();
            pod.metadata.owner_references = web.controller_owner_ref(&()).map(|owner| vec![owner]);
            let of_template = template.metadata.unwrap_or_default();
            (pod.metadata.labels, pod.metadata.annotations) = (of_template.labels, of_template.annotations);
            pod.spec = template.spec;
            pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
        }
        let pods = self.cluster.pods();
        let pod = pods.create(&PostParams::default(), &pod).await?;
        let running = self.cluster.add_sandbox(&pod, node).await?;
        let ip = running.ip();
        let status = json!({ "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "startTime": pod.creation_timestamp(),
            "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [{
                "name": pod.spec.as_ref().context("no spec")?.containers[0].name, "image": "", "imageID": "",
                "ready": true, "restartCount": 0, "state": { "running": {} },
            }],
        } });
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
        self.pods.insert(name.to_owned(), running);
        Ok(())
    }

    /// Ends a deleted pod as its kubelet would: the containers, the network, and last the object.
    async fn stop(&mut self, name: &str) -> Result<()> {
        let pods = self.cluster.pods();
        let object = pods.get(name).await?;
        ensure!(object.meta().deletion_timestamp.is_some(), "{name} is not being deleted");
        self.pods.remove(name).context("no such pod")?.del().await?;
        pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }

    async fn phase(&self, ip: Ipv4Addr, wanted: IpPhase) -> Result<()> {
        let vips = Api::<VpcIP>::all(self.cluster.client.clone());
        eventually(&format!("{ip} to be {wanted:?}"), async || {
            matches!(vips.get_opt(&ip.to_string()).await, Ok(Some(vip)) if vip.state().phase == wanted)
        })
        .await
    }

    async fn free(&self, ip: Ipv4Addr) -> Result<()> {
        let vips = Api::<VpcIP>::all(self.cluster.client.clone());
        eventually(&format!("{ip} to be free"), async || {
            matches!(vips.get_opt(&ip.to_string()).await, Ok(None))
        })
        .await
    }

    /// Waits until the cloud has an address for each `VpcIP`: one that is being made has its object before it is there.
    /// Not counted are those, and given back how many, that were picked though one of the lab's machines has them.
    async fn in_the_making(&self) -> Result<usize> {
        let addresses = Api::<VpcIP>::all(self.cluster.client.clone());
        let mut elsewhere = 0;
        eventually("an address for each VpcIP", async || {
            let Ok(list) = addresses.list(&ListParams::default()).await else { return false };
            let foreign = |ip: &&VpcIP| ip.state().phase == IpPhase::Quarantined;
            elsewhere = list.items.iter().filter(foreign).count();
            list.items.len() - elsewhere == self.in_the_cloud()
        })
        .await?;
        Ok(elsewhere)
    }

    /// How many addresses the cloud has on the ENIs that the controller made.
    fn in_the_cloud(&self) -> usize {
        let enis = self.cluster.cloud.snapshot().enis;
        enis.iter().filter(|eni| !eni.primary).map(|eni| eni.addresses.len()).sum()
    }
}

/// The row of a table that begins with a name.
fn row_of<'a>(table: &'a str, name: &str) -> Result<&'a str> {
    let row = table.lines().find(|line| line.split_whitespace().next() == Some(name));
    row.with_context(|| format!("no row {name} in:\n{table}"))
}
