//! Something that is done around every call of a cloud, whichever it is.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{CloudError, EniInfo, EniProvider, MachineLimits, NewEni, Subnet};

/// What is done around a call.
pub trait Around: Send + Sync + 'static {
    /// The call, surrounded. `action` is the name of the method of [`EniProvider`].
    fn around<'a, T: Send + 'a>(
        &'a self,
        action: &'static str,
        call: BoxFuture<'a, Result<T, CloudError>>,
    ) -> BoxFuture<'a, Result<T, CloudError>>;

    /// The cloud has said this of its subnets.
    fn saw_subnets(&self, _subnets: &[Subnet]) {}
}

/// A provider with something done around every call.
pub struct Surrounded<A> {
    inner: Arc<dyn EniProvider>,
    around: A,
}

impl<A: Around> Surrounded<A> {
    /// Does `around` around the calls of `inner`.
    pub fn new(inner: Arc<dyn EniProvider>, around: A) -> Self {
        Self { inner, around }
    }

    /// What is done.
    pub fn layer(&self) -> &A {
        &self.around
    }
}

impl<A: Around> EniProvider for Surrounded<A> {
    fn lag(&self) -> Duration {
        self.inner.lag()
    }

    fn subnets(&self) -> BoxFuture<'_, Result<Vec<Subnet>, CloudError>> {
        async move {
            let subnets = self.around.around("subnets", self.inner.subnets()).await?;
            self.around.saw_subnets(&subnets);
            Ok(subnets)
        }
        .boxed()
    }

    fn enis_of<'a>(&'a self, instance_id: &'a str) -> BoxFuture<'a, Result<Vec<EniInfo>, CloudError>> {
        self.around.around("enis_of", self.inner.enis_of(instance_id))
    }

    fn limits<'a>(
        &'a self,
        instance_id: &'a str,
        instance_type: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<MachineLimits>, CloudError>> {
        self.around.around("limits", self.inner.limits(instance_id, instance_type))
    }

    fn enis_of_cluster<'a>(&'a self, cluster_id: &'a str) -> BoxFuture<'a, Result<Vec<EniInfo>, CloudError>> {
        self.around.around("enis_of_cluster", self.inner.enis_of_cluster(cluster_id))
    }

    fn create_eni<'a>(&'a self, eni: &'a NewEni) -> BoxFuture<'a, Result<EniInfo, CloudError>> {
        self.around.around("create_eni", self.inner.create_eni(eni))
    }

    fn attach_eni<'a>(
        &'a self,
        eni_id: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        self.around.around("attach_eni", self.inner.attach_eni(eni_id, instance_id))
    }

    fn detach_eni<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), CloudError>> {
        self.around.around("detach_eni", self.inner.detach_eni(eni_id))
    }

    fn delete_eni<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), CloudError>> {
        self.around.around("delete_eni", self.inner.delete_eni(eni_id))
    }

    fn assign_ips<'a>(&'a self, eni_id: &'a str, ips: &'a [IpAddr]) -> BoxFuture<'a, Result<(), CloudError>> {
        self.around.around("assign_ips", self.inner.assign_ips(eni_id, ips))
    }

    fn unassign_ips<'a>(
        &'a self,
        eni_id: &'a str,
        ips: &'a [IpAddr],
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        self.around.around("unassign_ips", self.inner.unassign_ips(eni_id, ips))
    }

    fn migrate_ip<'a>(
        &'a self,
        from_eni: &'a str,
        to_eni: &'a str,
        ip: IpAddr,
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        self.around.around("migrate_ip", self.inner.migrate_ip(from_eni, to_eni, ip))
    }
}
