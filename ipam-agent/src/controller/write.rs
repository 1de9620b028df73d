//! Writes to the API: each carries the resourceVersion that its decision was made on.

use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};

use super::error::ReconcileError;
use crate::client;

/// Bounds of the objects that we write.
pub trait Object:
    Resource<DynamicType = ()> + Clone + PartialEq + Serialize + DeserializeOwned + std::fmt::Debug
{
}
impl<K: Resource<DynamicType = ()> + Clone + PartialEq + Serialize + DeserializeOwned + std::fmt::Debug>
    Object for K
{
}

fn failed<'a, K: Object>(verb: &'a str, object: &'a K) -> impl FnOnce(kube::Error) -> ReconcileError + 'a {
    move |source| ReconcileError::Api {
        action: format!("{verb} {} {}", K::kind(&()), object.name_any()),
        source,
    }
}

/// Changes an object's status; no request when nothing changes.
pub async fn status<K: Object>(
    api: &Api<K>,
    object: &K,
    change: impl FnOnce(&mut K),
) -> Result<K, ReconcileError> {
    let mut changed = object.clone();
    change(&mut changed);
    if changed == *object {
        return Ok(changed);
    }
    api.replace_status(&object.name_any(), &PostParams::default(), &changed)
        .await
        .map_err(failed("update status of", object))
}

/// Changes an object's metadata or spec; no request when nothing changes.
pub async fn object<K: Object>(
    api: &Api<K>,
    object: &K,
    change: impl FnOnce(&mut K),
) -> Result<K, ReconcileError> {
    let mut changed = object.clone();
    change(&mut changed);
    if changed == *object {
        return Ok(changed);
    }
    api.replace(&object.name_any(), &PostParams::default(), &changed).await.map_err(failed("update", object))
}

/// Creates an object; `None` when one of that name exists.
pub async fn create<K: Object>(api: &Api<K>, object: &K) -> Result<Option<K>, ReconcileError> {
    match api.create(&PostParams::default(), object).await {
        Ok(created) => Ok(Some(created)),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(None),
        Err(error) => Err(failed("create", object)(error)),
    }
}

/// Deletes this very object in this very state; one that is gone is deleted.
pub async fn delete<K: Object>(api: &Api<K>, object: &K) -> Result<(), ReconcileError> {
    let preconditions = Preconditions { uid: object.uid(), resource_version: object.resource_version() };
    match api.delete(&object.name_any(), &DeleteParams::default().preconditions(preconditions)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(failed("delete", object)(error)),
    }
}

/// Reads an object from the API itself, not from a cache.
pub async fn live<K: Object>(api: &Api<K>, name: &str) -> Result<Option<K>, ReconcileError> {
    client::live(api, name)
        .await
        .map_err(|source| ReconcileError::Api { action: format!("read {} {name}", K::kind(&())), source })
}
