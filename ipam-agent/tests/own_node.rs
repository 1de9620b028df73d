//! What an agent asks the API for: objects of its own node and nothing that grows with the cluster. And what it does when
//! it alone is not answered. Needs root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "agent_world/world.rs"]
mod agent_world;

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpListener,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use agent_world::{Netns, World, pings, wait_for};
use http::Request;
use ipam_agent::{
    api::{IpPhase, VpcIP},
    embedded::EmbeddedApi,
    node::self_fence::SelfFence,
};
use ipam_cni::error::code;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    client::Body,
};
use serde_json::json;
use tower::{BoxError, Service};

const IP: &str = "10.0.0.5";
const VPC_IPS: &str = "/apis/eni-ipam.dev/v1/vpcips";
const CONFIGS: &str = "/apis/eni-ipam.dev/v1/nodeeniconfigs";

/// The API, with a list of what it was asked.
#[derive(Clone)]
struct Recorded {
    api: EmbeddedApi,
    asked: Arc<Mutex<BTreeSet<String>>>,
}

impl Service<Request<Body>> for Recorded {
    type Response = <EmbeddedApi as Service<Request<Body>>>::Response;
    type Error = <EmbeddedApi as Service<Request<Body>>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request<Body>>::poll_ready(&mut self.api, context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let pairs = form_urlencoded::parse(query.as_bytes()).into_owned();
        let selector = pairs.into_iter().find(|(name, _)| name == "fieldSelector").map(|(_, value)| value);
        let selector = selector.map(|selector| format!(" {selector}")).unwrap_or_default();
        self.asked.lock().unwrap().insert(format!("{} {path}{selector}", request.method()));
        Box::pin(Service::<Request<Body>>::call(&mut self.api, request))
    }
}

#[test]
fn an_agent_asks_for_its_own_node_only() {
    let world = World::new();
    world.attach_eni();
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let recorded = Recorded { api: world.api.clone(), asked: asked.clone() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = runtime.block_on(async { Client::new(recorded, "default") });
    let _agent = world.start_on(move || client, world.config());
    wait_for("the node to be ready", || world.is_ready());

    // A life: ADD, a detach that is acknowledged, a pod whose address is taken away, one that never gets any.
    world.bind(IP, "web-0", 3);
    world.add("c1", "web-0", &Netns::new()).unwrap();
    world.set_phase(IP, IpPhase::Detaching);
    world.del("c1").unwrap();
    wait_for("the acknowledgement", || world.acknowledged(IP) == Some(3));
    world.bind("10.0.0.6", "web-1", 1);
    world.add("c2", "web-1", &Netns::new()).unwrap();
    world.with_api(async |client| {
        let patch = Patch::Merge(json!({ "status": { "nodeName": "n2", "epoch": 2 } }));
        Api::<VpcIP>::all(client).patch_status("10.0.0.6", &PatchParams::default(), &patch).await.unwrap();
    });
    let refused = world.add("c3", "nobody", &Netns::new()).unwrap_err();
    assert_eq!(refused.code, code::TRY_AGAIN_LATER);
    world.assert_bare();
    std::thread::sleep(Duration::from_millis(100));

    let asked = asked.lock().unwrap().clone();
    let wanted = [
        // Watches, and the lists that they begin with.
        format!("GET {VPC_IPS} status.nodeName=n1"),
        format!("GET {CONFIGS} metadata.name=n1"),
        // Is the API there?
        format!("GET {CONFIGS}/n1"),
        // The acknowledgement.
        format!("PATCH {VPC_IPS}/{IP}/status"),
        // Where has this one gone, which a pod of this node has?
        format!("GET {VPC_IPS}/10.0.0.6"),
        // Why has this pod no address?
        "GET /apis/eni-ipam.dev/v1/namespaces/default/vpcipclaims/nobody".to_owned(),
    ];
    assert_eq!(asked, BTreeSet::from(wanted));
}

/// The API, for as long as it is heard.
#[derive(Clone)]
struct Heard {
    api: EmbeddedApi,
    away: Arc<AtomicBool>,
}

impl Service<Request<Body>> for Heard {
    type Response = <EmbeddedApi as Service<Request<Body>>>::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if self.away.load(Ordering::SeqCst) {
            return Box::pin(async { Err("cut off".into()) });
        }
        let answer = Service::<Request<Body>>::call(&mut self.api, request);
        Box::pin(async { Ok(answer.await?) })
    }
}

/// Somebody whom the API answers.
fn witness() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let metrics = "eni_ipam_api_reachable{} 1\n";
            let length = metrics.len();
            let answer =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{metrics}");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[test]
fn a_pod_that_was_cut_off_stays_so_until_the_api_says_otherwise() {
    // The program does it: `cli::serve`.
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let world = World::new();
    world.attach_eni();
    let away = Arc::new(AtomicBool::new(false));
    let api = Heard { api: world.api.clone(), away: away.clone() };
    let mut config = world.config();
    // Asked every other moment.
    config.offline.optimistic = Duration::from_millis(900);
    // In the node's namespace, where the agent asks.
    let witnesses = vec![world.node.run(witness)];
    config.self_fence = Some(SelfFence { after: Duration::from_secs(2), witnesses });
    let _agent = world.start_on(move || Client::new(api, "default"), config);
    wait_for("the node to be ready", || world.is_ready());
    world.bind(IP, "web-0", 3);
    world.with_api(async |client| {
        let patch = Patch::Merge(json!({ "status": { "fencing": "Optimistic" } }));
        Api::<VpcIP>::all(client).patch_status(IP, &PatchParams::default(), &patch).await.unwrap();
    });
    let pod = Netns::new();
    world.add("c1", "web-0", &pod).unwrap();
    let link = world.wiring().0.remove(0);

    away.store(true, Ordering::SeqCst);
    wait_for("the pod to be cut off", || world.wiring().1.is_empty());
    assert!(!pings(&world.node, IP.parse().unwrap()));
    // As a repair does that was at work on it at that moment.
    world.node.ip(&format!("route add {IP} dev {link} scope link proto 69"));
    wait_for("the pod to be cut off again", || world.wiring().1.is_empty());

    away.store(false, Ordering::SeqCst);
    wait_for("the pod to be connected again", || pings(&world.node, IP.parse().unwrap()));
}
