//! The embedded API's listener, through stock `kubectl` and through a client of another process's kind.

#[path = "api_seam/suite.rs"]
#[allow(dead_code, unused_macros, unused_imports, reason = "the cases run in api_conformance")]
mod suite;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use ipam_agent::api::{NodeENIConfig, NodeENIConfigSpec, VpcIP, VpcIPClaim};
use ipam_agent::embedded::{Access, EmbeddedApi};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams, PostParams, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Config, Resource, ResourceExt};
use serde_json::json;
use suite::watches::Events;
use suite::{bound, created, merge, refusal, soon};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::oneshot;

/// A served API, and what one needs to call it.
struct Served {
    directory: tempfile::TempDir,
    api: EmbeddedApi,
    address: String,
    access: Access,
    stop: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Served {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let api = EmbeddedApi::open(&directory.path().join("api.redb")).expect("opens");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("address").to_string();
        let access =
            Access::open(&directory.path().join("access.json"), &["127.0.0.1".to_owned()]).expect("access");
        let (stop, stopped) = oneshot::channel::<()>();
        let (served, allowed) = (api.clone(), access.clone());
        let server = tokio::spawn(async move {
            let until = async {
                let _ = stopped.await;
            };
            served.serve(listener, &allowed, until).await
        });
        let served = Self { directory, api, address, access, stop, server };
        served.access.write_kubeconfig(&served.kubeconfig(), &served.address).expect("kubeconfig");
        served
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    async fn client(&self, kubeconfig: &Path) -> Client {
        let file = Kubeconfig::read_from(kubeconfig).expect("kubeconfig");
        let config =
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("config");
        Client::try_from(config).expect("client")
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments.split_whitespace())
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &str, input: &str) -> Output {
        use tokio::io::AsyncWriteExt;
        let mut child = self
            .command(arguments)
            .spawn()
            .unwrap_or_else(|error| panic!("kubectl cannot be started ({error}); run `cargo xtask setup`"));
        let mut stdin = child.stdin.take().expect("stdin");
        stdin.write_all(input.as_bytes()).await.expect("input");
        drop(stdin);
        soon(arguments, child.wait_with_output()).await.expect("output")
    }

    /// What `kubectl` prints; it must succeed.
    async fn kubectl(&self, arguments: &str) -> String {
        self.kubectl_with(arguments, "").await
    }

    async fn kubectl_with(&self, arguments: &str, input: &str) -> String {
        let output = self.run(arguments, input).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {arguments}: {}\n{out}\n{err}", output.status);
        out.into_owned()
    }

    async fn kubectl_fails(&self, arguments: &str, input: &str) -> String {
        let output = self.run(arguments, input).await;
        assert!(!output.status.success(), "kubectl {arguments} should fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    async fn stop(self) {
        self.stop.send(()).expect("runs");
        soon("the end of the server", self.server).await.expect("no panic").expect("no error");
    }
}

/// The words of each line of a table.
fn table(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

async fn example_objects(client: &Client) {
    bound(&Api::<VpcIP>::all(client.clone()), "10.0.1.5", "node-a").await;
    let claims = Api::<VpcIPClaim>::namespaced(client.clone(), "default");
    created(&claims, "web-0").await;
    let status =
        json!({ "status": { "address": "10.0.1.5", "phase": "Bound", "epoch": 3, "nodeName": "node-a" } });
    claims.patch_status("web-0", &PatchParams::default(), &Patch::Merge(status)).await.expect("status");
    let spec = NodeENIConfigSpec {
        instance_id: "ins-1".to_owned(),
        zone: "zone-1".to_owned(),
        max_enis: 2,
        max_ips_per_eni: 9,
        warm: None,
    };
    let nodes = Api::<NodeENIConfig>::all(client.clone());
    nodes.create(&PostParams::default(), &NodeENIConfig::new("node-a", spec)).await.expect("nec");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "web-0", "labels": { "app": "web" } },
        "spec": { "nodeName": "node-a", "containers": [{ "name": "c", "image": "i" }] },
    }))
    .expect("pod");
    Api::<Pod>::namespaced(client.clone(), "default")
        .create(&PostParams::default(), &pod)
        .await
        .expect("pod");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_shows_tables() {
    let served = Served::start().await;
    example_objects(&served.api.client()).await;

    let text = served.kubectl("get vip").await;
    let vip = table(&text);
    assert_eq!(
        vip[0],
        ["NAME", "TYPE", "PHASE", "NAMESPACE", "CLAIM", "NODE", "ENI", "EPOCH", "DETACHED", "AGE"]
    );
    assert_eq!(vip[1][..6], ["10.0.1.5", "Pod", "Bound", "default", "web-0", "node-a"]);
    assert!(vip[1].last().is_some_and(|age| age.ends_with('s')), "{text}");

    let text = served.kubectl("get vip,vipc,nec,pods").await;
    for line in ["vpcip.eni-ipam.dev/10.0.1.5", "vpcipclaim.eni-ipam.dev/web-0", "pod/web-0"] {
        assert!(text.lines().any(|known| known.starts_with(line)), "{line}:\n{text}");
    }
    let text = served.kubectl("get nec").await;
    assert_eq!(table(&text)[1][..5], ["node-a", "ins-1", "zone-1", "2", "9"]);
    let text = served.kubectl("get vipc -A").await;
    assert_eq!(table(&text)[1][..4], ["default", "web-0", "10.0.1.5", "Bound"]);
    let text = served.kubectl("get pods").await;
    assert_eq!(table(&text)[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(table(&text)[1][..4], ["web-0", "0/1", "Pending", "0"]);
    let text = served.kubectl("get pods -o wide -l app=web --show-labels").await;
    assert_eq!(table(&text)[1].last(), Some(&"app=web"));
    assert!(text.contains("NODE") && text.contains("node-a"), "{text}");
    let text = served.kubectl("get vip --field-selector status.nodeName=node-b").await;
    assert_eq!(text, "");
    for kind in ["nodes", "ns", "sts", "deploy", "rs", "leases", "events"] {
        served.kubectl(&format!("get {kind} -A")).await;
    }

    let text = served.kubectl("get vip 10.0.1.5 -o yaml").await;
    assert!(text.contains("kind: VpcIP\n") && text.contains("nodeName: node-a"), "{text}");
    let text = served.kubectl("get vipc web-0 -o jsonpath={.status.address}").await;
    assert_eq!(text, "10.0.1.5");
    let text = served.kubectl("api-resources --api-group=eni-ipam.dev --no-headers").await;
    let short: Vec<_> = table(&text).iter().map(|words| words[1].to_owned()).collect();
    assert_eq!(short, ["nec", "vipc", "vip"]);
    served.kubectl("version").await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recent_kubectl_explains() {
    let served = Served::start().await;
    let text = served.kubectl("explain vip.spec.subnetID").await;
    assert!(text.contains("Subnet of the address"), "{text}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_describes_with_events() {
    let served = Served::start().await;
    let client = served.api.client();
    example_objects(&client).await;
    let claim = Api::<VpcIPClaim>::namespaced(client.clone(), "default").get("web-0").await.expect("get");
    let event = Event {
        type_: EventType::Warning,
        reason: "PoolExhausted".to_owned(),
        note: Some("0 of 3 addresses are free".to_owned()),
        action: "Allocate".to_owned(),
        secondary: None,
    };
    let recorder = Recorder::new(client, Reporter::from("ipam-controller"));
    recorder.publish(&event, &claim.object_ref(&())).await.expect("publish");
    let text = served.kubectl("describe vipc web-0").await;
    assert!(text.contains("Delete Policy:") && text.contains("0 of 3 addresses are free"), "{text}");
    let text = served.kubectl("get events").await;
    assert_eq!(table(&text)[0], ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
    assert_eq!(table(&text)[1][1..4], ["Warning", "PoolExhausted", "vpcipclaim/web-0"]);
    let text = served.kubectl("describe pod web-0").await;
    assert!(text.contains("Node:") && text.contains("node-a"), "{text}");
    served.kubectl("describe vip,nec").await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recent_kubectl_writes() {
    let served = Served::start().await;
    let manifest = "apiVersion: eni-ipam.dev/v1\nkind: VpcIPClaim\nmetadata: {name: db-0}\nspec: {deletePolicy: Never}\n";
    served.kubectl_with("create -f -", manifest).await;
    let error = served.kubectl_fails("create -f -", manifest).await;
    assert!(error.contains("AlreadyExists"), "{error}");
    let error = served.kubectl_fails("create -f -", &manifest.replace("deletePolicy", "deletePolicey")).await;
    assert!(error.contains("unknown field \"spec.deletePolicey\""), "{error}");
    let error = served.kubectl_fails("create -f -", &manifest.replace("Never", "Perhaps")).await;
    assert!(error.contains("spec.deletePolicy") && error.contains("Perhaps"), "{error}");

    let pod =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web-0}\nspec: {containers: [{name: c, image: i}]}\n";
    assert_eq!(served.kubectl_with("apply -f -", pod).await, "pod/web-0 created\n");
    assert_eq!(served.kubectl_with("apply -f -", pod).await, "pod/web-0 unchanged\n");
    let applied = manifest.replace("db-0", "db-1");
    served.kubectl_with("apply -f -", &applied).await;
    let text = served.kubectl_with("apply -f -", &applied.replace("Never", "Immediate")).await;
    assert_eq!(text, "vpcipclaim.eni-ipam.dev/db-1 configured\n");
    assert_eq!(served.kubectl("get vipc db-1 -o jsonpath={.spec.deletePolicy}").await, "Immediate");

    served.kubectl("annotate pod web-0 eni-ipam.dev/vpc-ip-claim-delete-policy=Never").await;
    served.kubectl("label vipc db-0 app=db").await;
    served.kubectl("patch vipc db-0 --type merge -p {\"spec\":{\"expiredDuration\":\"10m\"}}").await;
    served.kubectl("patch vipc db-0 --subresource status --type merge -p {\"status\":{\"epoch\":2}}").await;
    let text = served
        .kubectl("get vipc -l app=db -o jsonpath={.items[0].spec.expiredDuration}/{.items[0].status.epoch}")
        .await;
    assert_eq!(text, "10m/2");
    let pods = Api::<Pod>::namespaced(served.api.client(), "default");
    assert_eq!(
        pods.get("web-0").await.expect("get").annotations()["eni-ipam.dev/vpc-ip-claim-delete-policy"],
        "Never"
    );
    served.kubectl("delete pod web-0").await;
    assert!(pods.get_opt("web-0").await.expect("get").is_none());
    served.kubectl("delete vipc --all").await;
    assert_eq!(served.kubectl("get vipc").await, "");
    served.stop().await;
}

/// `kubectl delete` of an object that a finalizer holds waits until it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_delete_waits_for_finalizers() {
    let served = Served::start().await;
    let claims = Api::<VpcIPClaim>::namespaced(served.api.client(), "team");
    created(&claims, "web-0").await;
    let held =
        merge(&claims, "web-0", json!({ "metadata": { "finalizers": ["eni-ipam.dev/in-use"] } })).await;
    let start = held.expect("patch").resource_version().expect("revision");
    let mut events = Events::of(&claims, &WatchParams::default(), &start).await;
    let mut waiting = served.command("delete vipc web-0 -n team").spawn().expect("kubectl");
    assert_eq!(events.short().await, "MODIFIED web-0");
    let early = tokio::time::timeout(Duration::from_millis(300), waiting.wait()).await;
    assert!(early.is_err(), "still waits: {early:?}");
    merge(&claims, "web-0", json!({ "metadata": { "finalizers": null } })).await.expect("patch");
    let output = soon("the end of kubectl", waiting.wait_with_output()).await.expect("output");
    assert!(output.status.success(), "{output:?}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_watches() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let served = Served::start().await;
    example_objects(&served.api.client()).await;
    let mut child = served.command("get vip -w").spawn().expect("kubectl");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut next = async || {
        let line =
            soon("a line of kubectl get -w", lines.next_line()).await.expect("reads").expect("goes on");
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(next().await[0], "NAME");
    assert_eq!(next().await[2], "Bound");
    let status = Patch::Merge(json!({ "status": { "phase": "Detaching" } }));
    let ips = Api::<VpcIP>::all(served.api.client());
    ips.patch_status("10.0.1.5", &PatchParams::default(), &status).await.expect("status");
    assert_eq!(next().await[2], "Detaching");
    // The server's end ends the watch; nothing holds the server up.
    served.stop().await;
    child.kill().await.expect("kill");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_token_gets_in() {
    use std::os::unix::fs::PermissionsExt;
    let served = Served::start().await;
    let path = served.kubeconfig();
    assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
    let claims = Api::<VpcIPClaim>::namespaced(served.client(&path).await, "default");
    created(&claims, "web-0").await;
    let text = std::fs::read_to_string(&path).expect("kubeconfig");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("json");
    let forged = served.directory.path().join("forged");
    for token in [json!("0".repeat(64)), json!(""), serde_json::Value::Null] {
        config["users"][0]["user"]["token"] = token;
        std::fs::write(&forged, config.to_string()).expect("write");
        let stranger = Api::<VpcIPClaim>::namespaced(served.client(&forged).await, "default");
        assert_eq!(refusal(stranger.get("web-0").await), suite::refused(401, "Unauthorized"));
    }
    let again = Access::open(&served.directory.path().join("access.json"), &["127.0.0.1".to_owned()]);
    again.expect("access").write_kubeconfig(&path, &served.address).expect("kubeconfig");
    assert_eq!(std::fs::read_to_string(&path).expect("kubeconfig"), text, "credentials outlive a restart");
    served.stop().await;
}

/// A peer that says nothing holds nobody up, neither others nor the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_harms_nobody() {
    let served = Served::start().await;
    let silent = tokio::net::TcpStream::connect(&served.address).await.expect("connects");
    let claims = Api::<VpcIPClaim>::namespaced(served.client(&served.kubeconfig()).await, "default");
    created(&claims, "web-0").await;
    let mut events = Events::of(&claims, &WatchParams::default(), "0").await;
    assert_eq!(events.short().await, "ADDED web-0");
    served.stop().await;
    assert!(events.next().await.is_none(), "the end of the server ends the watch");
    drop(silent);
}
