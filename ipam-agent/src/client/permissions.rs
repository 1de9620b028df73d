//! Permissions: each that is used is named once, and so is each that is missing, not with every try.

use std::collections::HashSet;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Client;
use kube::client::Body;
use tracing::{debug, error, info};

use super::{Target, around};

/// A client that says, at level debug, which permissions are used, and which is missing when the API refuses for want
/// of one; the latter again only after it was there in between. `rbac` is the file with the permissions of this program.
pub fn naming_permissions(client: Client, rbac: &'static str) -> Client {
    let used = Arc::<Mutex<HashSet<Target>>>::default();
    let told = Arc::<Mutex<HashSet<Target>>>::default();
    around(client, move |client, request: Request<Body>| {
        let told = told.clone();
        let target = Target::of(request.method(), request.uri());
        if let Some(target) = &target
            && used.lock().unwrap_or_else(PoisonError::into_inner).insert(target.clone())
        {
            // The lab reads this line: `ipam_lab::lab::permissions`.
            debug!("permission in use: {rbac}: {target}");
        }
        async move {
            let answer = client.send(request).await?;
            let Some(target) = target else { return Ok(answer) };
            if answer.status() != StatusCode::FORBIDDEN {
                let had = told.lock().unwrap_or_else(PoisonError::into_inner).remove(&target);
                if had {
                    info!("the permission is there now: {target}");
                }
                return Ok(answer);
            }
            let (head, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            let status: Status = serde_json::from_slice(&body).unwrap_or_default();
            let message = status.message.unwrap_or_default();
            // A quota or a policy forbids too; that is for whoever asked to say.
            if message.contains(&format!("cannot {} resource", target.verb))
                && told.lock().unwrap_or_else(PoisonError::into_inner).insert(target.clone())
            {
                error!(
                    "missing permission: {target}; apply {rbac} (`kubectl apply -k` of the overlay does), this goes on \
                     by itself then. The API says: {message}"
                );
            }
            Ok(Response::from_parts(head, Body::from(body)))
        }
    })
}

/// Whether an error comes from the API's refusing, which [`naming_permissions`] has told of.
#[must_use]
pub fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    causes.any(|cause| match cause.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => status.code == 403,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_known_through_its_wrappers() {
        let refused =
            || kube::Error::Api(Box::new(kube::core::Status::failure("no", "Forbidden").with_code(403)));
        assert!(is_refusal(&refused()));
        assert!(is_refusal(&kube::runtime::watcher::Error::InitialListFailed(refused())));
        let conflict =
            kube::Error::Api(Box::new(kube::core::Status::failure("no", "Conflict").with_code(409)));
        assert!(!is_refusal(&conflict));
    }
}
