//! Two nodes whose agents repair nothing when told so, and `ipamctl` beside them.

use std::process::Output;

use ipam_lab::cluster::{Cluster, ClusterBuilder, RunningPod, eventually};
use ipam_lab::lab::netns::Netns;
use ipam_lab::lab::process::binary;
use ipam_lab::story::STATIC;
use serde_json::Value;
use tempfile::TempDir;

pub struct Site {
    pub cluster: Cluster,
    dir: TempDir,
}

impl Site {
    pub async fn new(test: &str) -> Self {
        Self::with(test, |builder| builder).await
    }

    pub async fn with(test: &str, change: impl FnOnce(ClusterBuilder) -> ClusterBuilder) -> Self {
        let dir = TempDir::new().unwrap();
        let hold = dir.path().join("hold");
        let builder = Cluster::builder(test).subnet("subnet-a", "zone-1", "10.0.1.0/24,fd00:0:0:1::/64");
        let builder = builder.node("node-a", "zone-1").node("node-b", "zone-1");
        let builder = builder.agent_args(&["--hold-repairs-while", hold.to_str().unwrap()]);
        Self { cluster: change(builder).start().await.unwrap(), dir }
    }

    /// A pod that runs on node-a, healthy, whose agent repairs nothing from now on.
    pub async fn held(test: &str) -> (Self, RunningPod) {
        Self::new(test).await.with_held_pod().await
    }

    /// Likewise, with an address of each family.
    pub async fn held_dual_stack(test: &str) -> (Self, RunningPod) {
        let families = |builder: ClusterBuilder| builder.controller_args(&["--ip-families", "ipv4,ipv6"]);
        Self::with(test, families).await.with_held_pod().await
    }

    async fn with_held_pod(self) -> (Self, RunningPod) {
        let site = self;
        let pod = site.cluster.run_pod("web-0", "node-a", &[STATIC]).await.unwrap();
        assert!(
            site.first_line("web-0", "node-a").starts_with("default/web-0: healthy: "),
            "before it is broken"
        );
        site.hold().await;
        (site, pod)
    }

    pub async fn hold(&self) {
        self.cluster.node("node-a").hold_repairs(&self.dir.path().join("hold")).await.unwrap();
    }

    pub fn node_ns(&self) -> &Netns {
        self.cluster.node("node-a").machine().ns()
    }

    pub fn ipamctl(&self, node: &str, args: &[&str]) -> Output {
        let socket = self.cluster.node(node).machine().socket().with_file_name("agent.sock");
        let mut command = self.cluster.lab.ctl().command(binary("ipamctl").unwrap());
        command.env("KUBECONFIG", self.cluster.kubeconfig()).arg("--socket").arg(socket).args(args);
        command.output().unwrap()
    }

    /// `ipamctl explain pod`, whose exit code says whether there is a fault.
    pub fn explain(&self, pod: &str, node: &str, more: &[&str]) -> String {
        let pod = format!("default/{pod}");
        let output = self.ipamctl(node, &[&["explain", "pod", &pod], more].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        let fault = text.lines().next().unwrap_or_default().contains(": FAULT: ");
        assert_eq!(output.status.success(), !fault, "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    pub fn first_line(&self, pod: &str, node: &str) -> String {
        let text = self.explain(pod, node, &[]);
        println!("{text}");
        text.lines().next().unwrap_or_default().to_owned()
    }

    /// The first line of the explanation of web-0 says so.
    #[track_caller]
    pub fn assert_fault(&self, expected: &str) {
        let line = self.first_line("web-0", "node-a");
        assert!(line.starts_with(&format!("default/web-0: FAULT: {expected}")), "{line}");
    }

    /// Waits for the first line to begin so.
    pub async fn wait_for_fault(&self, pod: &str, node: &str, expected: &str) {
        let wanted = format!("default/{pod}: FAULT: {expected}");
        let mut line = String::new();
        eventually("the fault to be named", async || {
            line = self.first_line(pod, node);
            line.starts_with(&wanted)
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}: {line}"));
    }

    /// What the agent says of web-0.
    pub fn node_view(&self) -> Value {
        let output = self.ipamctl("node-a", &["explain", "pod", "default/web-0", "-o", "json"]);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        json["view"]["node"]["Ok"].clone()
    }

    /// Name of the node's end of the veth of web-0.
    pub fn veth(&self) -> String {
        self.node_view()["attachments"][0]["hostIfname"].as_str().unwrap().to_owned()
    }

    /// Name of the device of the ENI of web-0.
    pub fn eni(&self) -> String {
        self.node_view()["enis"][0]["link"]["name"].as_str().unwrap().to_owned()
    }

    /// A pinned map of node-a, on bpftool's command line.
    pub fn map(&self, name: &str) -> String {
        format!("pinned {}", self.cluster.node("node-a").machine().bpffs_dir().join(name).display())
    }
}

/// Runs words as a command in a namespace.
#[track_caller]
pub fn run(ns: &Netns, words: &str) -> String {
    let mut words = words.split_whitespace();
    let output = ns.command(words.next().unwrap()).args(words.clone()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
