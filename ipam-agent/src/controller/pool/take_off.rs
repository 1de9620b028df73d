//! Addresses that leave their ENI, many at once.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::context::Context;
use super::memory::Memory;
use super::{TakeOff, warming};
use crate::cloud::{CloudError, CloudErrorKind};

/// Takes addresses off: one call per ENI and family. As many as the node may keep warm stay where they are, of those that
/// it has let go.
pub async fn run(node: &str, context: &Context, memory: &mut Memory, leaving: Vec<TakeOff>) {
    let mut by_eni: BTreeMap<(String, bool), Vec<TakeOff>> = BTreeMap::new();
    let keep = warming::target(node, context).max;
    for leaves in leaving {
        if leaves.let_go && memory.warm < keep {
            memory.warm += 1;
            // It is warm when its cooldown is over: then its object is gone.
            let _ = leaves.answer.send(Ok(()));
            continue;
        }
        by_eni.entry((leaves.eni_id.clone(), leaves.ip.is_ipv6())).or_default().push(leaves);
    }
    for ((eni, _), leaving) in by_eni {
        let ips: Vec<IpAddr> = leaving.iter().map(|leaves| leaves.ip).collect();
        let together = context.provider.unassign_ips(&eni, &ips).await;
        let apart = ips.len() > 1 && together.as_ref().is_err_and(|error| !error.kind.is_transient());
        for leaves in leaving {
            // One bad address fails the whole call; each alone tells which.
            let outcome = match apart {
                true => context.provider.unassign_ips(&eni, &[leaves.ip]).await,
                false => together.clone(),
            };
            let _ = leaves.answer.send(gone_is_gone(outcome));
        }
    }
}

/// An ENI that is gone took its addresses along.
fn gone_is_gone(outcome: Result<(), CloudError>) -> Result<(), CloudError> {
    outcome.or_else(|error| if error.kind == CloudErrorKind::NotFound { Ok(()) } else { Err(error) })
}
