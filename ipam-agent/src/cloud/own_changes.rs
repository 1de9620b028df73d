//! What this process has done to ENIs, shown in what the cloud lists, though what the cloud lists lags behind it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::{CloudError, EniCloudState, EniInfo, EniProvider, MachineLimits, NewEni, Subnet};

/// No answer takes longer, retries included: so long a change is remembered beyond the lag.
const ANSWER: Duration = Duration::from_secs(120);

/// A provider that lists ENIs as the calls made through it have left them, for as long as the cloud may still show what was
/// before ([`EniProvider::lag`]).
pub struct OwnChanges {
    inner: Arc<dyn EniProvider>,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    /// When a call ended that took or freed addresses of a subnet, or may have.
    latest: Option<Instant>,
    /// ENIs as they were created.
    created: HashMap<String, (Instant, EniInfo)>,
    /// ENIs that were put on a machine, or (`None`) taken off theirs.
    machines: HashMap<String, (Instant, Option<String>)>,
    /// Whether an address was put on an ENI, or taken off it.
    addresses: HashMap<(String, IpAddr), (Instant, bool)>,
}

impl OwnChanges {
    /// Nothing was done yet.
    pub fn new(inner: Arc<dyn EniProvider>) -> Self {
        Self { inner, done: Mutex::default() }
    }

    /// From when on an answer of the cloud shows all that was done to its subnets through this. None: nothing was.
    pub fn shown_from(&self) -> Option<Instant> {
        Some(self.done().latest? + self.lag())
    }

    fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An ENI was put on a machine or taken off it; after an error the cloud alone knows.
    fn moved(&self, eni: &str, to: Option<&str>, outcome: &Result<(), CloudError>) {
        let (mut done, now) = (self.done(), Instant::now());
        done.forget_before(now, self.lag() + ANSWER);
        match outcome {
            Ok(()) => drop(done.machines.insert(eni.to_owned(), (now, to.map(str::to_owned)))),
            Err(_) => drop(done.machines.remove(eni)),
        }
    }

    /// Addresses were put on an ENI or taken off it; after an error the cloud alone knows.
    fn changed(&self, eni: &str, ips: &[IpAddr], on: bool, outcome: &Result<(), CloudError>) {
        let (mut done, now) = (self.done(), Instant::now());
        done.forget_before(now, self.lag() + ANSWER);
        done.latest = Some(now);
        for ip in ips {
            let which = (eni.to_owned(), *ip);
            match outcome {
                Ok(()) => drop(done.addresses.insert(which, (now, on))),
                Err(_) => drop(done.addresses.remove(&which)),
            }
        }
    }
}

impl Done {
    fn forget_before(&mut self, now: Instant, age: Duration) {
        self.created.retain(|_, (at, _)| now - *at < age);
        self.machines.retain(|_, (at, _)| now - *at < age);
        self.addresses.retain(|_, (at, _)| now - *at < age);
    }

    /// Corrects a list that was asked for at an instant: of one machine's ENIs, or of all.
    fn correct(&self, enis: &mut Vec<EniInfo>, of: Option<&str>, asked: Instant, lag: Duration) {
        let counts = |at: &Instant| *at + lag > asked;
        for (id, (_, machine)) in self.machines.iter().filter(|(_, (at, _))| counts(at)) {
            let attached = machine.as_ref().filter(|machine| of.is_none_or(|of| of == *machine));
            match (attached, enis.iter_mut().find(|eni| eni.id == *id)) {
                (Some(machine), Some(eni)) => {
                    (eni.state, eni.instance_id) = (EniCloudState::Attached, Some(machine.clone()));
                }
                (Some(machine), None) => {
                    let created = self.created.get(id).map(|(_, eni)| eni.clone());
                    let instance_id = Some(machine.clone());
                    enis.extend(created.map(|eni| EniInfo {
                        state: EniCloudState::Attached,
                        instance_id,
                        ..eni
                    }));
                }
                // What is on no machine is of no machine's list; in the list of all it shows in time.
                (None, Some(_)) if of.is_some() => enis.retain(|eni| eni.id != *id),
                (None, _) => {}
            }
        }
        for eni in enis {
            let known = self.addresses.iter().filter(|((id, _), (at, _))| *id == eni.id && counts(at));
            for ((_, ip), (_, on)) in known {
                eni.unsettled.retain(|other| other != ip);
                match on {
                    true if eni.secondary_ips.contains(ip) => {}
                    true => eni.secondary_ips.push(*ip),
                    false => eni.secondary_ips.retain(|other| other != ip),
                }
            }
        }
    }
}

impl EniProvider for OwnChanges {
    fn lag(&self) -> Duration {
        self.inner.lag()
    }

    fn subnets(&self) -> BoxFuture<'_, Result<Vec<Subnet>, CloudError>> {
        self.inner.subnets()
    }

    fn enis_of<'a>(&'a self, instance_id: &'a str) -> BoxFuture<'a, Result<Vec<EniInfo>, CloudError>> {
        async move {
            let asked = Instant::now();
            let mut enis = self.inner.enis_of(instance_id).await?;
            self.done().correct(&mut enis, Some(instance_id), asked, self.lag());
            Ok(enis)
        }
        .boxed()
    }

    fn limits<'a>(
        &'a self,
        instance_id: &'a str,
        instance_type: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<MachineLimits>, CloudError>> {
        self.inner.limits(instance_id, instance_type)
    }

    fn enis_of_cluster<'a>(&'a self, cluster_id: &'a str) -> BoxFuture<'a, Result<Vec<EniInfo>, CloudError>> {
        async move {
            let asked = Instant::now();
            let mut enis = self.inner.enis_of_cluster(cluster_id).await?;
            self.done().correct(&mut enis, None, asked, self.lag());
            Ok(enis)
        }
        .boxed()
    }

    fn create_eni<'a>(&'a self, eni: &'a NewEni) -> BoxFuture<'a, Result<EniInfo, CloudError>> {
        async move {
            let made = self.inner.create_eni(eni).await;
            let (mut done, now) = (self.done(), Instant::now());
            done.latest = Some(now);
            if let Ok(eni) = &made {
                done.created.insert(eni.id.clone(), (now, eni.clone()));
            }
            drop(done);
            made
        }
        .boxed()
    }

    fn attach_eni<'a>(
        &'a self,
        eni_id: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        async move {
            let outcome = self.inner.attach_eni(eni_id, instance_id).await;
            self.moved(eni_id, Some(instance_id), &outcome);
            outcome
        }
        .boxed()
    }

    fn detach_eni<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), CloudError>> {
        async move {
            let outcome = self.inner.detach_eni(eni_id).await;
            self.moved(eni_id, None, &outcome);
            outcome
        }
        .boxed()
    }

    fn delete_eni<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), CloudError>> {
        async move {
            let outcome = self.inner.delete_eni(eni_id).await;
            // Its own address is free.
            self.changed(eni_id, &[], false, &outcome);
            outcome
        }
        .boxed()
    }

    fn assign_ips<'a>(&'a self, eni_id: &'a str, ips: &'a [IpAddr]) -> BoxFuture<'a, Result<(), CloudError>> {
        async move {
            let outcome = self.inner.assign_ips(eni_id, ips).await;
            self.changed(eni_id, ips, true, &outcome);
            outcome
        }
        .boxed()
    }

    fn unassign_ips<'a>(
        &'a self,
        eni_id: &'a str,
        ips: &'a [IpAddr],
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        async move {
            let outcome = self.inner.unassign_ips(eni_id, ips).await;
            self.changed(eni_id, ips, false, &outcome);
            outcome
        }
        .boxed()
    }

    fn migrate_ip<'a>(
        &'a self,
        from_eni: &'a str,
        to_eni: &'a str,
        ip: IpAddr,
    ) -> BoxFuture<'a, Result<(), CloudError>> {
        async move {
            let outcome = self.inner.migrate_ip(from_eni, to_eni, ip).await;
            self.changed(from_eni, &[ip], false, &outcome);
            self.changed(to_eni, &[ip], true, &outcome);
            outcome
        }
        .boxed()
    }
}
