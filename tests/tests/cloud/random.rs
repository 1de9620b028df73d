//! Random calls among random faults: what a call reports as done is done, and no address is in two places.

use std::{net::Ipv4Addr, time::Duration};

use ipam_lab::caller::Door;
use ipam_lab::cloud_server::{FaultKind, When, state::EniState};
use proptest::prelude::*;

use crate::rig::{Rig, new_eni, v4};

#[derive(Clone, Debug)]
enum Op {
    Create(u8),
    Attach(u8, u8),
    Detach(u8),
    Delete(u8),
    Assign(u8, Vec<u8>),
    Unassign(u8, Vec<u8>),
    Migrate(u8, u8, u8),
}

fn op() -> impl Strategy<Value = Op> {
    let eni = || 0..4_u8;
    let ips = || proptest::collection::vec(20..28_u8, 1..4);
    prop_oneof![
        2 => eni().prop_map(Op::Create),
        3 => (eni(), 0..2_u8).prop_map(|(eni, machine)| Op::Attach(eni, machine)),
        1 => eni().prop_map(Op::Detach),
        1 => eni().prop_map(Op::Delete),
        4 => (eni(), ips()).prop_map(|(eni, ips)| Op::Assign(eni, ips)),
        3 => (eni(), ips()).prop_map(|(eni, ips)| Op::Unassign(eni, ips)),
        4 => (eni(), eni(), 20..28_u8).prop_map(|(from, to, ip)| Op::Migrate(from, to, ip)),
    ]
}

async fn history(door: Door, ops: Vec<Op>, seed: u64, delay: u64) {
    let rig = Rig::slow(door, Duration::from_millis(delay));
    let hasty = rig.another(|config| {
        config.pace.settle = Duration::from_millis(60);
        config.pace.deadline = Duration::from_millis(400);
        config.pace.call = Duration::from_millis(100);
        config.pace.poll = Duration::from_millis(2);
    });
    let faults = rig.cloud.faults();
    let kinds = [
        FaultKind::Throttle,
        FaultKind::Http500,
        FaultKind::TimeoutAfterSuccess,
        FaultKind::TornAnswer,
        FaultKind::PartialBatch,
        FaultKind::Late(Duration::from_millis(120)),
        FaultKind::StaleDescribe(Duration::from_millis(40)),
    ];
    for (n, kind) in kinds.into_iter().enumerate() {
        faults.add(None, When::Random { probability: 0.05, seed: seed.wrapping_add(n as u64) }, kind);
    }
    // The ENI that each number names at present, as far as the caller was told.
    let mut ids: [String; 4] = std::array::from_fn(|n| format!("eni-none-{n}"));
    for op in ops {
        let id = |n: &u8| ids[usize::from(*n)].clone();
        let v4s = |ips: &[u8]| ips.iter().map(|n| v4(*n)).collect::<std::collections::BTreeSet<Ipv4Addr>>();
        let addresses = |ips: &[u8]| v4s(ips).into_iter().map(Into::into).collect::<Vec<_>>();
        let mut created: Option<(u8, String)> = None;
        let mut expected: Box<dyn Fn() -> bool> = Box::new(|| true);
        let snapshot = || rig.cloud.snapshot();
        let result = match &op {
            Op::Create(n) => hasty.create_eni(&new_eni(&format!("n{n}"))).await.map(|eni| {
                created = Some((*n, eni.id));
            }),
            Op::Attach(n, machine) => {
                let (id, machine) = (id(n), ["ins-a", "ins-b"][usize::from(*machine)]);
                let result = hasty.attach_eni(&id, machine).await;
                expected = Box::new(move || {
                    snapshot().eni(&id).is_some_and(|eni| {
                        eni.state == EniState::Available
                            && eni.attachment.as_ref().is_some_and(|(on, _)| on == machine)
                    })
                });
                result
            }
            Op::Detach(n) => {
                let id = id(n);
                let result = hasty.detach_eni(&id).await;
                expected = Box::new(move || snapshot().eni(&id).is_none_or(|eni| eni.attachment.is_none()));
                result
            }
            Op::Delete(n) => {
                let id = id(n);
                let result = hasty.delete_eni(&id).await;
                expected = Box::new(move || snapshot().eni(&id).is_none());
                result
            }
            Op::Assign(n, ips) => {
                let (id, set) = (id(n), v4s(ips));
                let result = hasty.assign_ips(&id, &addresses(ips)).await;
                expected = Box::new(move || {
                    set.iter().all(|ip| snapshot().holder(*ip).is_some_and(|holder| holder.id == id))
                });
                result
            }
            Op::Unassign(n, ips) => {
                let (id, set) = (id(n), v4s(ips));
                let result = hasty.unassign_ips(&id, &addresses(ips)).await;
                expected = Box::new(move || {
                    set.iter().all(|ip| snapshot().holder(*ip).is_none_or(|holder| holder.id != id))
                });
                result
            }
            Op::Migrate(from, to, ip) if from != to => {
                let (from, to, ip) = (id(from), id(to), v4(*ip));
                let result = hasty.migrate_ip(&from, &to, ip.into()).await;
                expected = Box::new(move || snapshot().holder(ip).is_some_and(|holder| holder.id == to));
                result
            }
            Op::Migrate(..) => Ok(()),
        };
        if result.is_ok() {
            // What is moved may arrive after the answer, where that is said to be so.
            let moves = matches!((door, &op), (Door::Aws, Op::Migrate(..)));
            if moves && !expected() {
                tokio::time::sleep(Duration::from_millis(delay + 50)).await;
            }
            assert!(expected(), "{op:?} was said to be done; seed {seed}");
        }
        assert_eq!(snapshot().violations, [""; 0], "{op:?}; seed {seed}");
        drop(expected);
        if let Some((n, id)) = created {
            assert!(rig.cloud.snapshot().eni(&id).is_some(), "{id} was said to be there");
            ids[usize::from(n)] = id;
        }
    }
    // Nothing is there under a name twice.
    faults.clear();
    tokio::time::sleep(Duration::from_millis(delay + 20)).await;
    let mut names: Vec<_> = rig.secondary_enis().into_iter().map(|eni| eni.name).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "an ENI leaked: {:?}; seed {seed}", rig.secondary_enis());
}

/// Histories that run at once: most of their time is waiting.
const AT_ONCE: u64 = 6;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn random_histories_of_tencent(ops in proptest::collection::vec(op(), 20..40), seed: u32, delay in 0..8_u64) {
        histories(Door::Tencent, &ops, seed, delay);
    }

    #[test]
    fn random_histories_of_aws(ops in proptest::collection::vec(op(), 20..40), seed: u32, delay in 0..8_u64) {
        histories(Door::Aws, &ops, seed, delay);
    }
}

fn histories(door: Door, ops: &[Op], seed: u32, delay: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let one = |n| history(door, ops.to_vec(), u64::from(seed) + 100 * n, delay);
    runtime.block_on(futures::future::join_all((0..AT_ONCE).map(one)));
}
