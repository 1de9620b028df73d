//! When this controller last changed something in the cloud that takes or frees addresses: numbers that are older are stale.

use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::cloud::{Around, CloudError};

/// Calls that take or free addresses of a subnet. One that failed may have done so too.
const TAKE_OR_FREE: [&str; 5] = ["create_eni", "delete_eni", "assign_ips", "unassign_ips", "migrate_ip"];

/// The end of the last such call.
#[derive(Clone, Debug, Default)]
pub struct Changes(Arc<Mutex<Option<Instant>>>);

impl Changes {
    /// None: there was none yet.
    pub fn latest(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Around for Changes {
    fn around<'a, T: Send + 'a>(
        &'a self,
        action: &'static str,
        call: BoxFuture<'a, Result<T, CloudError>>,
    ) -> BoxFuture<'a, Result<T, CloudError>> {
        async move {
            let answer = call.await;
            if TAKE_OR_FREE.contains(&action) {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
            answer
        }
        .boxed()
    }
}
