//! What all clouds have in common: a provider over an API of single calls, any of which may be lost, late or
//! refused for what an earlier one did.

use std::net::IpAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::goal::{Described, Goal};
use super::pace::Pace;
use super::{CloudError, CloudErrorKind, EniInfo, EniProvider, MachineLimits, NewEni, Subnet};

mod configured;
mod create;
mod reach;

pub use configured::Configured;

/// Which ENIs to describe.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// These, as far as they exist.
    Ids(&'a [&'a str]),
    /// Those on a machine.
    On(&'a str),
    /// Those with a cluster's tag.
    OfCluster(&'a str),
    /// Those that may have been created as this one: its subnet, cluster and name.
    Like(&'a NewEni),
}

/// How a call was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is so.
    Done,
    /// It may become so: what a Describe shows must tell.
    Accepted,
}

/// The times that bound one change.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// From then on, a Describe shows nothing from before the change began.
    pub settled: Instant,
    /// The change has failed when it has not succeeded by then.
    pub deadline: Instant,
}

impl Window {
    fn new(pace: &Pace) -> Self {
        let began = Instant::now();
        Self { settled: began + pace.settle, deadline: began + pace.deadline }
    }

    fn is_settled(&self) -> bool {
        Instant::now() >= self.settled
    }

    /// Whether its time is over.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// An ENI that a create call made, or found by its token.
#[derive(Clone, Debug)]
pub struct Made {
    /// The ENI.
    pub id: String,
    /// Whether this call is known to have made it.
    pub fresh: bool,
}

/// The calls of a cloud's API.
pub trait CloudApi: Send + Sync + 'static {
    /// Addresses in one call that assigns or unassigns them, at most, of either family.
    const BATCH: usize;
    /// An ENI's name, at most.
    const NAME_BYTES: usize;
    /// The action that creates ENIs.
    const CREATE: &'static str;

    /// How fast, how often and how long.
    fn pace(&self) -> &Pace;

    /// The action that reaches a goal.
    fn action(goal: &Goal<'_>) -> &'static str;

    /// The configured subnets.
    fn subnets(&self) -> impl Future<Output = Result<Vec<Subnet>, CloudError>> + Send;

    /// What a machine can take; `None`: the cloud does not say.
    fn limits(
        &self,
        instance_id: &str,
        instance_type: Option<&str>,
    ) -> impl Future<Output = Result<Option<MachineLimits>, CloudError>> + Send;

    /// Describes ENIs: all of them, and each once.
    fn describe(&self, which: Which<'_>) -> impl Future<Output = Result<Vec<Described>, CloudError>> + Send;

    /// One call that creates an ENI; one with the same token gives the same ENI.
    fn create(
        &self,
        eni: &NewEni,
        token: &str,
        window: Window,
    ) -> impl Future<Output = Result<Made, CloudError>> + Send;

    /// One attempt at a goal. Its errors are the cloud's: what was asked for may be so already.
    fn attempt(
        &self,
        goal: &Goal<'_>,
        window: Window,
    ) -> impl Future<Output = Result<Outcome, CloudError>> + Send;
}

/// What shall become of an ENI's addresses.
type GoalOf = for<'a> fn(&'a str, &'a [IpAddr]) -> Goal<'a>;

/// The provider of a cloud with such an API.
pub struct Remote<A> {
    api: A,
}

impl<A: CloudApi> Remote<A> {
    /// Calls nothing yet.
    pub const fn over(api: A) -> Self {
        Self { api }
    }

    async fn list(&self, which: Which<'_>) -> Result<Vec<EniInfo>, CloudError> {
        Ok(self.api.describe(which).await?.into_iter().map(|eni| eni.info).collect())
    }

    async fn detach(&self, eni: &str) -> Result<(), CloudError> {
        // The goal needs the machine. A Describe that shows none is believed when it has settled.
        let window = Window::new(self.api.pace());
        loop {
            let believed = window.is_settled();
            let described = self.list(Which::Ids(&[eni])).await?.pop();
            if let Some(instance) = described.and_then(|eni| eni.instance_id) {
                return self.reach(&Goal::Detached { eni, instance: &instance }).await;
            }
            if believed {
                return Ok(());
            }
            sleep(self.api.pace().poll).await;
        }
    }

    async fn assign(&self, eni: &str, ips: &[IpAddr]) -> Result<(), CloudError> {
        self.reach_ips(eni, ips, |eni, ips| Goal::Holds { eni, ips }).await
    }

    async fn unassign(&self, eni: &str, ips: &[IpAddr]) -> Result<(), CloudError> {
        self.reach_ips(eni, ips, |eni, ips| Goal::Lacks { eni, ips }).await
    }

    /// Reaches a goal for addresses, of one family after the other: an ENI takes one task at a time.
    async fn reach_ips(&self, eni: &str, ips: &[IpAddr], goal: GoalOf) -> Result<(), CloudError> {
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = ips.iter().partition(|ip| ip.is_ipv4());
        self.reach_batches(&v4, |ips| goal(eni, ips)).await?;
        self.reach_batches(&v6, |ips| goal(eni, ips)).await
    }

    /// Reaches a goal for addresses of one family in batches. A batch is refused whole for one of its addresses, or for
    /// what a lost answer did for some: then it goes on with the others, one at a time.
    async fn reach_batches<'a>(
        &self,
        ips: &'a [IpAddr],
        goal: impl Fn(&'a [IpAddr]) -> Goal<'a>,
    ) -> Result<(), CloudError> {
        for batch in ips.chunks(A::BATCH) {
            match self.reach(&goal(batch)).await {
                Err(error) if batch.len() > 1 && divisible(error.kind) => {
                    // A refusal comes after the time to settle: this Describe can be believed.
                    let enis = self.api.describe(Which::Ids(&goal(batch).enis())).await?;
                    for ip in batch.chunks(1).filter(|ip| !goal(ip).is_reached(&enis)) {
                        self.reach(&goal(ip)).await.map_err(|error| about(ip, error))?;
                    }
                }
                done => done.map_err(|error| about(batch, error))?,
            }
        }
        Ok(())
    }

    async fn migrate(&self, from: &str, to: &str, ip: IpAddr) -> Result<(), CloudError> {
        match ip {
            IpAddr::V4(ip) => {
                let goal = Goal::Moved { from, to, ip };
                self.reach(&goal).await.map_err(|error| about(&[ip.into()], error))
            }
            // No cloud has such an action for IPv6. What is not on the first ENI has left it already.
            IpAddr::V6(_) => {
                match self.unassign(from, &[ip]).await {
                    Err(error) if error.kind != CloudErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                self.assign(to, &[ip]).await
            }
        }
    }
}

/// Whether a part of the batch may fare better.
const fn divisible(kind: CloudErrorKind) -> bool {
    use CloudErrorKind::{AddressInUse, Invalid, IpLimit, NotFound, SubnetExhausted};
    matches!(kind, AddressInUse | Invalid | IpLimit | NotFound | SubnetExhausted)
}

fn about(ips: &[IpAddr], mut error: CloudError) -> CloudError {
    let ips = ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    error.message = format!("{ips}: {}", error.message);
    error
}

/// What was begun has not ended in time.
pub fn timeout(action: &'static str, message: String) -> CloudError {
    CloudError { kind: CloudErrorKind::Unavailable, action, code: TIMEOUT.into(), message, request_id: None }
}

/// The code of an error that says no more than that the time was over.
const TIMEOUT: &str = "Timeout";

impl<A: CloudApi> EniProvider for Remote<A> {
    fn lag(&self) -> Duration {
        self.api.pace().settle
    }

    fn subnets(&self) -> BoxFuture<'_, Result<Vec<Subnet>, CloudError>> {
        Box::pin(self.api.subnets())
    }

    fn enis_of<'a>(&'a self, instance_id: &'a str) -> BoxFuture<'a, Result<Vec<EniInfo>, CloudError>> {
        Box::pin(self.list(Which::On(instance_id)))
    }

    fn limits<'a>(
        &'a self,
        instance_id: &'a str,
        instance_type: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<MachineLimits>, CloudError>> {
        Box::pin(self.api.limits(instance_id, instance_type))
    }

    fn enis_of_cluster<'a>(&'a self, cluster_id: &'a str) -> BoxFuture<'a, Result<Vec<EniInfo>, CloudError>> {
        Box::pin(self.list(Which::OfCluster(cluster_id)))
    }

    fn create_eni<'a>(&'a self, eni: &'a NewEni) -> BoxFuture<'a, Result<EniInfo, CloudError>> {
        Box::pin(self.create(eni))
    }

    fn attach_eni<'a>(
        &'a self,
        eni_id: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        Box::pin(async move { self.reach(&Goal::Attached { eni: eni_id, instance: instance_id }).await })
    }

    fn detach_eni<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), CloudError>> {
        Box::pin(self.detach(eni_id))
    }

    fn delete_eni<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), CloudError>> {
        Box::pin(async move { self.reach(&Goal::Deleted { eni: eni_id }).await })
    }

    fn assign_ips<'a>(&'a self, eni_id: &'a str, ips: &'a [IpAddr]) -> BoxFuture<'a, Result<(), CloudError>> {
        Box::pin(self.assign(eni_id, ips))
    }

    fn unassign_ips<'a>(
        &'a self,
        eni_id: &'a str,
        ips: &'a [IpAddr],
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        Box::pin(self.unassign(eni_id, ips))
    }

    fn migrate_ip<'a>(
        &'a self,
        from_eni: &'a str,
        to_eni: &'a str,
        ip: IpAddr,
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        Box::pin(self.migrate(from_eni, to_eni, ip))
    }
}
