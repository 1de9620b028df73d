//! Every fault at every call: what is asked for is so in the end, once, and nothing is left over.

use std::time::Duration;

use futures::StreamExt as _;
use ipam_agent::cloud::{CloudError, CloudErrorKind};
use ipam_lab::caller::Door;
use ipam_lab::cloud_server::{FaultKind, When};
use ipam_lab::lab::patience::patient;

use crate::rig::{Rig, at_both_doors, ip, new_eni, v4};

#[derive(Clone, Copy, Debug)]
enum Op {
    Create,
    Attach,
    Detach,
    Delete,
    Assign,
    Unassign,
    Migrate,
}

use Op::*;

const OPS: [Op; 7] = [Create, Attach, Detach, Delete, Assign, Unassign, Migrate];

impl Op {
    fn action(self, door: Door) -> &'static str {
        match self {
            Create => "CreateNetworkInterface",
            Attach => "AttachNetworkInterface",
            Detach => "DetachNetworkInterface",
            Delete => "DeleteNetworkInterface",
            Assign => "AssignPrivateIpAddresses",
            Unassign => "UnassignPrivateIpAddresses",
            Migrate => door.pick("MigratePrivateIpAddress", "AssignPrivateIpAddresses"),
        }
    }

    /// What must be there before: ENIs a on ins-a and b on ins-b, a with .20 to .23; c detached.
    async fn prepare(self, rig: &Rig) -> [String; 3] {
        let (a, b) = (rig.attached("a", "ins-a").await.id, rig.attached("b", "ins-b").await.id);
        let c = rig.create("c").await.id;
        rig.provider.assign_ips(&a, &[ip(20), ip(21), ip(22), ip(23)]).await.unwrap();
        rig.world.take();
        [a, b, c]
    }

    async fn run(self, rig: &Rig, [a, b, c]: &[String; 3]) -> Result<(), CloudError> {
        let provider = &rig.provider;
        match self {
            Create => provider.create_eni(&new_eni("d")).await.map(drop),
            Attach => provider.attach_eni(c, "ins-a").await,
            Detach => provider.detach_eni(a).await,
            Delete => provider.delete_eni(c).await,
            Assign => provider.assign_ips(a, &[ip(24), ip(25), ip(26), ip(27)]).await,
            Unassign => provider.unassign_ips(a, &[ip(20), ip(21), ip(22)]).await,
            Migrate => provider.migrate_ip(a, b, ip(20)).await,
        }
    }

    /// Whether the cloud and the world are as the call shall leave them.
    fn check(self, rig: &Rig, [a, b, c]: &[String; 3], case: &str) {
        let snapshot = rig.cloud.snapshot();
        assert_eq!(snapshot.violations, [""; 0], "{case}");
        let eni = |id: &str| snapshot.eni(id);
        let machine = |id: &str| eni(id).and_then(|eni| eni.attachment.clone()).map(|(on, _)| on);
        let (count, on_a, on_b, moved): (_, Vec<u8>, Vec<u8>, usize) = match self {
            Create => (4, (20..24).collect(), vec![], 0),
            Attach | Detach => (3, (20..24).collect(), vec![], 1),
            Delete => (2, (20..24).collect(), vec![], 0),
            Assign => (3, (20..28).collect(), vec![], 4),
            Unassign => (3, vec![23], vec![], 3),
            Migrate => (3, vec![21, 22, 23], vec![20], 2),
        };
        assert_eq!(rig.secondary_enis().len(), count, "{case}: {:?}", rig.secondary_enis());
        assert_eq!(rig.ips_of(a), on_a.into_iter().map(v4).collect::<Vec<_>>(), "{case}");
        assert_eq!(rig.ips_of(b), on_b.into_iter().map(v4).collect::<Vec<_>>(), "{case}");
        assert_eq!(
            machine(a).as_deref(),
            if matches!(self, Detach) { None } else { Some("ins-a") },
            "{case}"
        );
        assert_eq!(
            machine(c).as_deref(),
            if matches!(self, Attach) { Some("ins-a") } else { None },
            "{case}"
        );
        // Each move once: nothing was done twice, or done and undone.
        let moves = rig.world.take();
        assert_eq!(moves.len(), moved, "{case}: {moves:?}");
    }
}

fn error(code: &str) -> FaultKind {
    FaultKind::Error { code: code.into(), message: "ordered".into() }
}

/// An action (`own`: the one that is tried), the calls of it, and what befalls them.
type Fault = (&'static str, When, FaultKind);

async fn one_case(door: Door, op: Op, delay: Duration, faults: Vec<Fault>) {
    let case = format!("{op:?} with {delay:?} and {faults:?}");
    let rig = Rig::slow(door, delay);
    let enis = op.prepare(&rig).await;
    for (action, when, kind) in faults {
        let action = if action == "own" { op.action(door) } else { action };
        rig.cloud.faults().add(Some(action), when, kind);
    }
    let began = std::time::Instant::now();
    if let Err(error) = op.run(&rig, &enis).await {
        panic!("{case}, after {:?}: {error}\n{:#?}", began.elapsed(), rig.cloud.calls());
    }
    op.check(&rig, &enis, &case);
}

/// Runs all cases, several at a time.
async fn all(door: Door, cases: Vec<(Op, Duration, Vec<Fault>)>) {
    let runs = cases.into_iter().map(|(op, delay, faults)| async move {
        tokio::spawn(one_case(door, op, delay, faults)).await.unwrap();
    });
    futures::stream::iter(runs).buffer_unordered(16).collect::<Vec<_>>().await;
}

const DELAYS: [Duration; 2] = [Duration::ZERO, Duration::from_millis(20)];

fn kinds(door: Door) -> Vec<FaultKind> {
    vec![
        FaultKind::Throttle,
        error(door.pick("LimitExceeded.ActionLimited", "Throttling")),
        error("InternalError"),
        error(door.pick("UnsupportedOperation.MutexOperationTaskRunning", "IncorrectState")),
        error(door.pick("ResourceUnavailable", "Unavailable")),
        FaultKind::Http500,
        FaultKind::TimeoutAfterSuccess,
        FaultKind::TornAnswer,
        FaultKind::Late(Duration::from_millis(2500)),
        FaultKind::PartialBatch,
    ]
}

async fn a_fault_of_the_call_itself(door: Door) {
    let mut cases = Vec::new();
    for (op, delay) in OPS.into_iter().flat_map(|op| DELAYS.map(|delay| (op, delay))) {
        for kind in kinds(door) {
            cases.push((op, delay, vec![("own", When::Nth(1), kind.clone())]));
            cases.push((op, delay, vec![("own", When::First(3), kind)]));
        }
    }
    all(door, cases).await;
}

async fn a_fault_of_what_is_asked_beside_it(door: Door) {
    let mut cases = Vec::new();
    for op in OPS {
        for kind in kinds(door) {
            let beside = ["DescribeNetworkInterfaces", "DescribeVpcTaskResult"];
            for action in &beside[..door.pick(2, 1)] {
                cases.push((op, DELAYS[1], vec![(*action, When::First(2), kind.clone())]));
            }
        }
    }
    all(door, cases).await;
}

/// A Describe that lags, alone and with a lost answer, is not believed too early.
async fn a_describe_that_lags(door: Door) {
    let stale =
        || ("DescribeNetworkInterfaces", When::Always, FaultKind::StaleDescribe(Duration::from_millis(150)));
    let mut cases = Vec::new();
    for (op, delay) in OPS.into_iter().flat_map(|op| DELAYS.map(|delay| (op, delay))) {
        cases.push((op, delay, vec![stale()]));
        for kind in [FaultKind::TimeoutAfterSuccess, FaultKind::PartialBatch, FaultKind::Http500] {
            cases.push((op, delay, vec![stale(), ("own", When::First(2), kind)]));
        }
    }
    all(door, cases).await;
}

/// Back and forth faster than a Describe can follow: what it shows is an older state with the same look.
async fn a_lagging_describe_that_looks_right_is_not_believed(door: Door) {
    let rig = Rig::new(door);
    let (a, b) = (rig.attached("a", "ins-a").await.id, rig.attached("b", "ins-b").await.id);
    rig.provider.assign_ips(&a, &[ip(20)]).await.unwrap();
    let lag = FaultKind::StaleDescribe(Duration::from_millis(200));
    rig.cloud.faults().add(Some("DescribeNetworkInterfaces"), When::Always, lag);
    tokio::time::sleep(Duration::from_millis(220)).await;
    rig.provider.migrate_ip(&a, &b, ip(20)).await.unwrap();
    // Not done, and the Describe still shows the address on a, as if it were.
    rig.cloud.faults().add(Some(Migrate.action(door)), When::First(1), FaultKind::Http500);
    rig.provider.migrate_ip(&b, &a, ip(20)).await.unwrap();
    assert_eq!(rig.cloud.snapshot().holder(v4(20)).unwrap().id, a);

    rig.cloud.faults().add(Some("UnassignPrivateIpAddresses"), When::First(1), FaultKind::Http500);
    rig.provider.unassign_ips(&a, &[ip(20)]).await.unwrap();
    assert!(rig.cloud.snapshot().holder(v4(20)).is_none());
    rig.cloud.faults().add(Some("AssignPrivateIpAddresses"), When::First(1), FaultKind::Http500);
    rig.provider.assign_ips(&a, &[ip(20)]).await.unwrap();
    assert_eq!(rig.cloud.snapshot().holder(v4(20)).unwrap().id, a);
}

/// A process dies between a create and its answer: the next one finds the ENI, though the Describe lags.
async fn a_create_whose_caller_died_leaks_nothing(door: Door) {
    for lag in [Duration::ZERO, Duration::from_millis(200)] {
        let rig = Rig::slow(door, Duration::from_millis(50));
        let faults = rig.cloud.faults();
        faults.add(Some("DescribeNetworkInterfaces"), When::Always, FaultKind::StaleDescribe(lag));
        let dies = rig.another(|config| config.pace.deadline = Duration::ZERO);
        faults.add(Some("CreateNetworkInterface"), When::First(1), FaultKind::Late(Duration::from_secs(5)));
        let eni = new_eni("a");
        let died = tokio::time::timeout(Duration::from_millis(100), dies.create_eni(&eni)).await;
        assert!(died.is_err());
        let found = rig.create("a").await;
        assert_eq!(rig.secondary_enis().len(), 1);
        assert_eq!(rig.secondary_enis()[0].id, found.id);
    }
}

/// An ENI that came with a late attempt is waited for, though Describes lag: it is not taken for gone, and made again.
async fn a_create_that_succeeds_late_makes_one_eni(door: Door) {
    let rig = Rig::new(door);
    let faults = rig.cloud.faults();
    let lag = FaultKind::StaleDescribe(Duration::from_millis(250));
    faults.add(Some("DescribeNetworkInterfaces"), When::Always, lag);
    // With the pauses between them these take longer than a Describe lags at most.
    faults.add(Some("CreateNetworkInterface"), When::First(20), FaultKind::Throttle);
    let made = rig.create("a").await;
    let enis: Vec<String> = rig.secondary_enis().into_iter().map(|eni| eni.id).collect();
    assert_eq!(enis, [made.id]);
}

/// What never stops failing is reported for what it is, after the deadline and not much later.
async fn faults_without_end_end_in_an_error(door: Door) {
    for (kind, expected, code) in [
        (FaultKind::Throttle, CloudErrorKind::Throttled, "RequestLimitExceeded"),
        (FaultKind::Http500, CloudErrorKind::Unavailable, "Transport"),
        (error("InternalError"), CloudErrorKind::Unavailable, "InternalError"),
        (FaultKind::TimeoutAfterSuccess, CloudErrorKind::Unavailable, "Transport"),
        (FaultKind::Late(Duration::from_secs(9)), CloudErrorKind::Unavailable, "Timeout"),
        (FaultKind::TornAnswer, CloudErrorKind::Unavailable, "Decode"),
    ] {
        let rig = Rig::new(door);
        let hasty = rig.another(|config| {
            config.pace.deadline = Duration::from_millis(300);
            if matches!(kind, FaultKind::Late(_)) {
                config.pace.call = Duration::from_millis(400);
            }
        });
        let eni = rig.create("a").await.id;
        rig.cloud.faults().add(None, When::Always, kind.clone());
        let began = std::time::Instant::now();
        let error = hasty.assign_ips(&eni, &[ip(20)]).await.unwrap_err();
        assert!((error.kind, error.code.as_str()) == (expected, code), "{kind:?}: {error}");
        let error = hasty.subnets().await.unwrap_err();
        assert!((error.kind, error.code.as_str()) == (expected, code), "{kind:?}: {error}");
        assert!(began.elapsed() < patient(Duration::from_secs(20)), "{kind:?}: {:?}", began.elapsed());
        // The next try finds what is so, whatever of it had happened.
        rig.cloud.faults().clear();
        rig.provider.assign_ips(&eni, &[ip(20)]).await.unwrap();
        assert_eq!(rig.ips_of(&eni), [v4(20)]);
    }
}

/// Nobody there at all.
async fn no_cloud_at_all_is_unavailable(door: Door) {
    let rig = Rig::new(door);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let lost = rig.another(|config| {
        config.endpoint = format!("http://{closed}");
        config.pace.deadline = Duration::from_millis(200);
    });
    let error = lost.attach_eni("eni-1", "ins-a").await.unwrap_err();
    assert_eq!((error.kind, error.code.as_str()), (CloudErrorKind::Unavailable, "Transport"));
    assert!(error.message.contains("refused"), "{error}");
}

at_both_doors! {
    a_fault_of_the_call_itself,
    a_fault_of_what_is_asked_beside_it,
    a_describe_that_lags,
    a_lagging_describe_that_looks_right_is_not_believed,
    a_create_whose_caller_died_leaks_nothing,
    a_create_that_succeeds_late_makes_one_eni,
    faults_without_end_end_in_an_error,
    no_cloud_at_all_is_unavailable,
}
