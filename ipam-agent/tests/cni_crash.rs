//! The node agent ended right after each step of ADD and DEL, and started again. Needs root and
//! `--features failpoints`.

#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "agent_world/world.rs"]
mod agent_world;

use std::{
    env,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use agent_world::{GATEWAY, Netns, World, answers, config, pings, wait_for};
use ipam_agent::{
    api::IpPhase,
    embedded::EmbeddedApi,
    node::{self, CRASH_POINTS},
};
use tokio_util::sync::CancellationToken;

const IP: &str = "10.0.0.5";
const SIGABRT: i32 = 6;
const DIRECTORY: &str = "IPAM_TEST_AGENT_DIRECTORY";
const BPFFS: &str = "IPAM_TEST_AGENT_BPFFS";

/// Not a test of its own: the agent's process, which `crash_at` starts with these variables set.
#[test]
fn agent_process() {
    let (Some(directory), Some(bpffs)) = (env::var_os(DIRECTORY), env::var_os(BPFFS)) else { return };
    let _armed = fail::FailScenario::setup();
    let (directory, bpffs) = (PathBuf::from(directory), PathBuf::from(bpffs));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let api = EmbeddedApi::open(&directory.join("api.redb")).unwrap();
        node::run(api.client(), config(&directory, &bpffs), CancellationToken::new()).await.unwrap();
    });
}

fn start_process(world: &World, point: &str) -> Child {
    let child = world.node.run(|| {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "agent_process", "--test-threads=1"])
            .env(DIRECTORY, world.directory.path())
            .env(BPFFS, &world.bpffs)
            .env("FAILPOINTS", format!("{point}=return"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    });
    wait_for("the agent's process", || answers(&world.socket()));
    wait_for("the node to be ready", || world.is_ready());
    child
}

fn crash_at(point: &str) {
    let mut world = World::new();
    world.attach_eni();
    world.bind(IP, "web-0", 1);
    world.close_api();
    let mut child = start_process(&world, point);
    let pod = Netns::new();
    let added = world.add("c1", "web-0", &pod);
    if point.starts_with("node-del") {
        added.unwrap();
        // The runtime hears of the crash, or of success when it came after the answer.
        let _ = world.del("c1");
    } else {
        added.unwrap_err();
    }
    let mut status = None;
    wait_for("the crash", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().signal(), Some(SIGABRT), "{point}");
    world.reopen_api();
    let agent = world.start();
    if point == "node-add-commit" {
        assert!(pings(&pod, GATEWAY), "{point}: what was committed is kept");
    } else {
        assert_eq!(world.wiring(), (vec![], vec![]), "{point}: undone or finished before the first call");
        assert!(!pod.ip("-o link").contains("eth0"), "{point}");
    }
    // A runtime sends a DEL after whatever has failed, and makes a new sandbox.
    world.del("c1").unwrap();
    world.assert_bare();
    world.add("c2", "web-0", &pod).unwrap();
    assert!(pings(&pod, GATEWAY), "{point}");
    world.set_phase(IP, IpPhase::Detaching);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(world.acknowledged(IP), None, "{point}");
    world.del("c2").unwrap();
    wait_for("the acknowledgement", || world.acknowledged(IP) == Some(1));
    agent.stop().unwrap();
    assert_eq!(world.dataplane(), (vec![], vec![]), "{point}");
}

#[test]
fn every_crash_point_is_recovered_from() {
    for point in CRASH_POINTS {
        println!("{point}");
        crash_at(point);
    }
}
