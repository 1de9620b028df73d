//! From a call to what it does: begins its task, moves the world, ends the task.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{
    CloudServer, FaultKind,
    error::ApiError,
    state::{Change, Create, Task, Vpc},
    wire,
};
use crate::world::{World, WorldEni};

/// The actions that [`FaultKind::PartialBatch`] does half of.
const ADDRESS_ACTIONS: [&str; 4] = [
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "AssignIpv6Addresses",
    "UnassignIpv6Addresses",
];

/// The world's part of a change.
enum Move {
    Attach { instance: String, eni: WorldEni },
    Detach(String),
    Assign(String, IpAddr),
    Unassign(String, IpAddr),
}

impl CloudServer {
    /// Does what a call asks for. The fields of its answer, but for the RequestId, which names its task.
    pub(super) async fn run(
        &self,
        request: &str,
        action: &str,
        body: &Value,
        fault: Option<&FaultKind>,
    ) -> Result<Value, ApiError> {
        let half = matches!(fault, Some(FaultKind::PartialBatch));
        if half && !ADDRESS_ACTIONS.contains(&action) {
            return Err(ApiError::new("InternalError", "nothing was done"));
        }
        match action {
            "DescribeNetworkInterfaces" => {
                let asked = wire::params(body)?;
                let state = self.state();
                let enis = match fault {
                    Some(FaultKind::StaleDescribe(age)) => state.enis_before(*age),
                    _ => state.vpc.enis.values().cloned().collect(),
                };
                wire::describe_enis(&state.vpc, &enis, &asked)
            }
            "DescribeSubnets" => wire::describe_subnets(&self.state().vpc, &wire::params(body)?),
            "DescribeNetworkInterfaceLimit" => wire::describe_limit(&self.state().vpc, &wire::params(body)?),
            "DescribeVpcTaskResult" => wire::describe_task(&self.state().vpc, &wire::params(body)?),
            "CreateNetworkInterface" => {
                let create = self.create_params(wire::params(body)?)?;
                let (eni, change) = self.change(|vpc| vpc.create(request, create))?;
                let answer = wire::eni_json(&self.state().vpc, &eni);
                if let Some(change) = change {
                    self.begin_or_stick(request, change, fault).await;
                }
                Ok(json!({ "NetworkInterface": answer }))
            }
            "AssignPrivateIpAddresses" | "UnassignPrivateIpAddresses" => {
                let asked: wire::EniAndAddresses = wire::params(body)?;
                let ips: Vec<IpAddr> =
                    asked.private_ip_addresses.iter().map(|a| a.private_ip_address.into()).collect();
                let assign = action == "AssignPrivateIpAddresses";
                self.change_addresses(request, &asked.network_interface_id, assign, ips, half).await?;
                Ok(json!({}))
            }
            "UnassignIpv6Addresses" => {
                let asked: wire::UnassignIpv6Addresses = wire::params(body)?;
                let ips = asked.ipv6_addresses.iter().map(|a| a.address.into()).collect();
                self.change_addresses(request, &asked.network_interface_id, false, ips, half).await?;
                Ok(json!({}))
            }
            "AssignIpv6Addresses" => self.assign_v6(request, wire::params(body)?, half).await,
            _ => {
                let change = self.change(|vpc| start(vpc, request, action, body))?;
                self.begin_or_stick(request, change, fault).await;
                Ok(json!({}))
            }
        }
    }

    /// Begins a change, which never ends when the fault is such.
    pub(super) async fn begin_or_stick(&self, task: &str, change: Change, fault: Option<&FaultKind>) {
        let sticks = matches!(change, Change::Create(_) | Change::Attach(..));
        match fault {
            Some(FaultKind::Stuck) if sticks => self.change(|vpc| vpc.get_stuck(&change)),
            _ => self.begin(task, change).await,
        }
    }

    /// Assigns or unassigns addresses of one family: all, or half of them and an error.
    async fn change_addresses(
        &self,
        request: &str,
        eni: &str,
        assign: bool,
        mut ips: Vec<IpAddr>,
        half: bool,
    ) -> Result<(), ApiError> {
        if ips.len() > 10 {
            return Err(ApiError::new(
                "InvalidParameterValue.LimitExceeded",
                "10 addresses in one call at most",
            ));
        }
        if half {
            ips.truncate(ips.len() / 2);
        }
        if !ips.is_empty() || !half {
            let change = self.change(|vpc| match assign {
                true => vpc.assign(request, eni, &ips),
                false => vpc.unassign(request, eni, &ips),
            })?;
            self.begin(request, change).await;
        }
        if half { Err(ApiError::new("InternalError", "half of it was done")) } else { Ok(()) }
    }

    /// An AssignIpv6Addresses: addresses that are named, or a number of them.
    async fn assign_v6(
        &self,
        request: &str,
        asked: wire::AssignIpv6Addresses,
        half: bool,
    ) -> Result<Value, ApiError> {
        let eni = &asked.network_interface_id;
        match (asked.ipv6_addresses, asked.ipv6_address_count) {
            (Some(addresses), None) => {
                let ips: Vec<IpAddr> = addresses.iter().map(|a| a.address.into()).collect();
                self.change_addresses(request, eni, true, ips.clone(), half).await?;
                Ok(wire::assigned_v6(&ips))
            }
            (None, Some(count)) => {
                let (change, ips) = self.change(|vpc| vpc.assign_any_v6(request, eni, count))?;
                self.begin(request, change).await;
                Ok(wire::assigned_v6(&ips))
            }
            _ => {
                let message = "one of Ipv6Addresses and Ipv6AddressCount is needed, and no more";
                Err(ApiError::new("MissingParameter", message))
            }
        }
    }

    fn create_params(&self, asked: wire::CreateNetworkInterface) -> Result<Create, ApiError> {
        let vpc = &self.state().vpc.config.vpc;
        if asked.vpc_id != *vpc {
            return Err(ApiError::new("ResourceNotFound", format!("{} does not exist", asked.vpc_id)));
        }
        if asked.network_interface_name.len() > 60 {
            return Err(ApiError::new(
                "InvalidParameterValue.TooLong",
                "NetworkInterfaceName: 60 bytes at most",
            ));
        }
        if asked.client_token.as_ref().is_some_and(|token| token.len() > 64 || !token.is_ascii()) {
            return Err(ApiError::new(
                "InvalidParameterValue.TooLong",
                "ClientToken: 64 ASCII characters at most",
            ));
        }
        let mut tags = BTreeMap::new();
        for tag in asked.tags {
            if tags.insert(tag.key, tag.value).is_some() {
                return Err(ApiError::new("InvalidParameterValue.TagDuplicateKey", "a tag is given twice"));
            }
        }
        let addresses = asked.private_ip_addresses.unwrap_or_default();
        if addresses.iter().filter(|address| address.primary).count() != addresses.len()
            || addresses.len() > 1
        {
            // The API takes secondary ones too; here nobody asks for them so.
            return Err(ApiError::new(
                "InvalidParameterValue",
                "PrivateIpAddresses: one primary address at most",
            ));
        }
        let ip = addresses.first().map(|address| address.private_ip_address.into());
        let (name, subnet) = (asked.network_interface_name, asked.subnet_id);
        Ok(Create { name, subnet, tags, ip, token: asked.client_token })
    }

    /// Does a change: before the answer when it takes no time, else after it.
    pub(super) async fn begin(&self, task: &str, change: Change) {
        let delay = self.delay(&change);
        let running = self.spawn(task, change, delay);
        if delay.is_zero() {
            running.await.expect("a task neither panics nor is aborted");
        }
    }

    /// Does a change before the answer, however long it takes.
    pub(super) async fn complete(&self, task: &str, change: Change) -> Result<(), ApiError> {
        let delay = self.delay(&change);
        self.spawn(task, change, delay).await.expect("a task neither panics nor is aborted");
        match self.state().vpc.tasks.get(task) {
            Some(Task::Failed(why)) => Err(ApiError::new("FailedOperation.TaskFailed", why)),
            _ => Ok(()),
        }
    }

    fn delay(&self, change: &Change) -> Duration {
        let delays = self.state().vpc.config.delays;
        match change {
            Change::Create(_) => delays.create,
            Change::Attach(..) => delays.attach,
            Change::Detach(_) => delays.detach,
            Change::Delete(_) => delays.delete,
            Change::Assign(..) | Change::Unassign(..) => delays.assign,
            Change::Migrate(..) => delays.migrate,
        }
    }

    /// A task of its own even without delay: it ends though the caller hangs up.
    fn spawn(&self, task: &str, change: Change, delay: Duration) -> JoinHandle<()> {
        let (server, task) = (self.clone(), task.to_owned());
        tokio::spawn(async move { server.end(&task, change, delay).await })
    }

    async fn end(&self, task: &str, change: Change, delay: Duration) {
        tokio::time::sleep(delay).await;
        let _moving = self.inner.moving.lock().await;
        let (moves, world) = (moves(&self.state().vpc, &change), self.inner.world.clone());
        let outcome = tokio::task::spawn_blocking(move || perform(&*world, &moves)).await;
        let outcome = outcome.unwrap_or_else(|panic| Err(anyhow::anyhow!("the world panicked: {panic}")));
        if let Err(error) = &outcome {
            tracing::error!(task, "the world refused {change:?}: {error:#}");
        }
        self.change(|vpc| vpc.finish(task, outcome.map_err(|error| format!("{error:#}"))));
    }

    /// A name for a request, and for its task.
    pub(super) fn request_id() -> String {
        Uuid::new_v4().to_string()
    }
}

fn start(vpc: &mut Vpc, task: &str, action: &str, body: &Value) -> Result<Change, ApiError> {
    match action {
        "AttachNetworkInterface" => {
            let asked: wire::EniAndInstance = wire::params(body)?;
            vpc.attach(task, &asked.network_interface_id, &asked.instance_id, None)
        }
        "DetachNetworkInterface" => {
            let asked: wire::EniAndInstance = wire::params(body)?;
            vpc.detach(task, &asked.network_interface_id, &asked.instance_id)
        }
        "DeleteNetworkInterface" => {
            let asked: wire::DeleteNetworkInterface = wire::params(body)?;
            vpc.delete(task, &asked.network_interface_id)
        }
        "MigratePrivateIpAddress" => {
            let asked: wire::MigratePrivateIpAddress = wire::params(body)?;
            let (from, to) = (&asked.source_network_interface_id, &asked.destination_network_interface_id);
            vpc.migrate(task, from, to, asked.private_ip_address.into())
        }
        _ => Err(ApiError::new("InvalidAction", format!("{action} is no action"))),
    }
}

/// What moves in the world: only what is on a machine is there.
fn moves(vpc: &Vpc, change: &Change) -> Vec<Move> {
    let attached = |id: &str| vpc.enis.get(id).is_some_and(|eni| eni.attachment.is_some());
    let each = |id: &String, ips: &[IpAddr], to_move: fn(String, IpAddr) -> Move| {
        let ips = if attached(id) { ips } else { &[] };
        ips.iter().map(|ip| to_move(id.clone(), *ip)).collect::<Vec<_>>()
    };
    match change {
        Change::Create(_) | Change::Delete(_) => Vec::new(),
        Change::Attach(id, instance) => {
            let Some(eni) = vpc.enis.get(id) else { return Vec::new() };
            let subnet = vpc.config.subnets.iter().find(|subnet| subnet.id == eni.subnet);
            let gateway = subnet.map_or(Ipv4Addr::UNSPECIFIED, super::SubnetConfig::gateway);
            let ips = eni.addresses.iter().map(|address| address.ip).collect();
            let gateway_v6 = subnet.and_then(|subnet| subnet.cidr_v6).map(|_| vpc.gateway_v6);
            let eni = WorldEni { id: id.clone(), mac: eni.mac.clone(), gateway, gateway_v6, ips };
            vec![Move::Attach { instance: instance.clone(), eni }]
        }
        Change::Detach(id) if attached(id) => vec![Move::Detach(id.clone())],
        Change::Detach(_) => Vec::new(),
        Change::Assign(id, ips) => each(id, ips, Move::Assign),
        Change::Unassign(id, ips) => each(id, ips, Move::Unassign),
        Change::Migrate(from, to, ip) => {
            let mut moves = each(from, &[*ip], Move::Unassign);
            moves.extend(each(to, &[*ip], Move::Assign));
            moves
        }
    }
}

fn perform(world: &dyn World, moves: &[Move]) -> anyhow::Result<()> {
    moves.iter().try_for_each(|a_move| match a_move {
        Move::Attach { instance, eni } => world.attach(instance, eni),
        Move::Detach(eni) => world.detach(eni),
        Move::Assign(eni, ip) => world.assign(eni, *ip),
        Move::Unassign(eni, ip) => world.unassign(eni, *ip),
    })
}
