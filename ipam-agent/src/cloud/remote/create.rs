//! Creating an ENI once, whatever becomes of the answers.

use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, sleep_until};

use super::{CloudApi, Made, Remote, Which, Window, timeout};
use crate::cloud::{CloudError, CloudErrorKind, EniCloudState, EniInfo, NewEni, goal::Described};

/// How many ENIs of one name may have been created and deleted before.
const GENERATIONS: u32 = 8;

impl<A: CloudApi> Remote<A> {
    /// The ENI is found by its name when an earlier call created it. Until a Describe shows it, the client
    /// token makes the cloud itself answer with the same ENI.
    pub(super) async fn create(&self, eni: &NewEni) -> Result<EniInfo, CloudError> {
        if eni.name.is_empty() || eni.name.len() > A::NAME_BYTES {
            let message = format!("the name {:?} must have 1 to {} bytes", eni.name, A::NAME_BYTES);
            return Err(invalid::<A>(message));
        }
        for generation in 0..GENERATIONS {
            let window = Window::new(self.api.pace());
            let made = self.create_once(eni, &client_token(eni, generation), window).await?;
            // It may be as new as this answer, however many attempts came before.
            let shown = Instant::now() + self.api.pace().settle;
            if !made.fresh {
                // One that an earlier call made. A Describe may show it, and a token name it, after its end.
                sleep_until(window.settled).await;
            }
            if let Some(eni) = self.created(&made.id, window, shown).await? {
                return Ok(eni);
            }
        }
        // As good as taken: with another primary address come another name and other tokens.
        let message = format!("{GENERATIONS} ENIs named {:?} came and went; choose another", eni.name);
        Err(CloudError { kind: CloudErrorKind::AddressInUse, ..invalid::<A>(message) })
    }

    async fn create_once(&self, eni: &NewEni, token: &str, window: Window) -> Result<Made, CloudError> {
        let mut pauses = self.api.pace().pauses();
        let mut last_unknown = Instant::now();
        loop {
            if let Some(found) = self.by_name(eni).await? {
                return Ok(Made { id: found.info.id, fresh: false });
            }
            let error = match self.api.create(eni, token, window).await {
                Ok(made) => return Ok(made),
                Err(error) => error,
            };
            if error.kind == CloudErrorKind::Unauthorized {
                return Err(error);
            }
            if error.kind.is_transient() {
                last_unknown = Instant::now();
            }
            if !error.kind.is_transient() || window.is_over() {
                // An earlier attempt may have happened, and even be what this one is refused for.
                sleep_until(last_unknown + self.api.pace().settle).await;
                let found = self.by_name(eni).await.ok().flatten().ok_or(error)?;
                return Ok(Made { id: found.info.id, fresh: false });
            }
            sleep(pauses.next().unwrap_or(self.api.pace().backoff.1)).await;
        }
    }

    async fn by_name(&self, eni: &NewEni) -> Result<Option<Described>, CloudError> {
        let enis = self.api.describe(Which::Like(eni)).await?;
        // A cloud's filter on names may match more than the whole name.
        Ok(enis
            .into_iter()
            .find(|found| found.name == eni.name && found.info.state != EniCloudState::Deleting))
    }

    /// Waits until the ENI can be attached; nothing when it does not exist. From `shown` on, a Describe shows it if it does.
    async fn created(&self, id: &str, window: Window, shown: Instant) -> Result<Option<EniInfo>, CloudError> {
        loop {
            let believed = Instant::now() >= shown;
            let eni = self.list(Which::Ids(&[id])).await?.pop();
            match eni {
                Some(eni) if eni.state == EniCloudState::Deleting => return Ok(None),
                Some(eni)
                    if eni.state != EniCloudState::Pending && eni.primary_ip != Ipv4Addr::UNSPECIFIED =>
                {
                    return Ok(Some(eni));
                }
                None if believed => return Ok(None),
                _ if window.is_over() => {
                    return Err(timeout(A::CREATE, format!("{id} is still being created")));
                }
                _ => sleep(self.api.pace().poll).await,
            }
        }
    }
}

fn client_token(eni: &NewEni, generation: u32) -> String {
    let primary = eni.primary_ip.map(|ip| ip.to_string()).unwrap_or_default();
    let NewEni { cluster_id, subnet_id, name, node, .. } = eni;
    let text = format!("{cluster_id}\n{subnet_id}\n{name}\n{node}\n{primary}\n{generation}");
    hex::encode(&Sha256::digest(text)[..16])
}

fn invalid<A: CloudApi>(message: String) -> CloudError {
    CloudError {
        kind: CloudErrorKind::Invalid,
        action: A::CREATE,
        code: "InvalidParameterValue".into(),
        message,
        request_id: None,
    }
}
