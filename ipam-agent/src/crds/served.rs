//! Whether the API serves the custom resources as this program writes them.

use anyhow::bail;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tracing::warn;

use super::definitions;
use crate::client::is_refusal;

/// What to do about definitions that are not as they should be.
const REMEDY: &str = "apply those of this version: `ipam-agent crds | kubectl apply --server-side -f -`, \
                      or `kubectl apply --server-side -f deploy/base/crds`";

/// Pause between two tries to ask an API that does not answer.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(5);

/// Asks until the API has answered. What runs beside this need not wait for it: where the API does not answer, nothing
/// is written either.
///
/// # Errors
/// A definition is missing, or is of another version: with what to apply. A newer one that has all that this one has
/// is right.
pub async fn check(client: Client) -> anyhow::Result<()> {
    let served = Api::<CustomResourceDefinition>::all(client.clone());
    for ours in definitions() {
        let name = ours.name_any();
        let theirs = loop {
            match served.get_opt(&name).await {
                Ok(theirs) => break theirs,
                // That it is missing is told; what it is for is a help, so this goes on without.
                Err(error) if is_refusal(&error) => return Ok(()),
                Err(error) => {
                    warn!(%error, "cannot read the definition of {name}; trying on");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        match theirs {
            Some(theirs) => {
                let lacks = lacks(&serde_json::to_value(&theirs.spec)?, &serde_json::to_value(&ours.spec)?);
                if let Some(field) = lacks.first() {
                    let more = lacks.len() - 1;
                    bail!(
                        "the API serves {name} of another version: it has no {field} (and lacks {more} more); {REMEDY}"
                    );
                }
            }
            None if serves(&client, &ours).await? => {}
            None => bail!("the API does not know {name}; {REMEDY}"),
        }
    }
    Ok(())
}

/// Whether the API serves the kind, of whose definition it does not tell: the embedded one.
async fn serves(client: &Client, ours: &CustomResourceDefinition) -> kube::Result<bool> {
    let version = ours.spec.versions.first().map(|version| version.name.as_str()).unwrap_or_default();
    match client.list_api_group_resources(&format!("{}/{version}", ours.spec.group)).await {
        Ok(known) => Ok(known.resources.iter().any(|known| known.name == ours.spec.names.plural)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Versions, fields and subresources that `ours` has and `theirs` has not.
fn lacks(theirs: &Value, ours: &Value) -> Vec<String> {
    let versions = |spec: &Value| spec["versions"].as_array().cloned().unwrap_or_default();
    let theirs = versions(theirs);
    let mut lacks = Vec::new();
    for version in versions(ours) {
        let name = version["name"].as_str().unwrap_or_default();
        let Some(same) = theirs.iter().find(|it| it["name"] == name && it["served"] == true) else {
            lacks.push(format!("version {name}"));
            continue;
        };
        for subresource in version["subresources"].as_object().into_iter().flat_map(|known| known.keys()) {
            if same["subresources"].get(subresource).is_none() {
                lacks.push(format!("subresource {subresource}"));
            }
        }
        let schema = |version: &Value| version["schema"]["openAPIV3Schema"].clone();
        fields(&schema(same), &schema(&version), "", &mut lacks);
    }
    lacks
}

/// Fields of `ours` that `theirs` would drop, by their paths.
fn fields(theirs: &Value, ours: &Value, path: &str, lacks: &mut Vec<String>) {
    for (name, inner) in ours["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match theirs["properties"].get(name) {
            Some(known) => fields(known, inner, &path, lacks),
            None => lacks.push(path),
        }
    }
    for inner in ["items", "additionalProperties"] {
        if ours[inner].is_object() {
            fields(&theirs[inner], &ours[inner], path, lacks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_and_what_is_more_is_no_matter() {
        for ours in definitions() {
            let ours = serde_json::to_value(&ours.spec).unwrap();
            assert_eq!(lacks(&ours, &ours), [""; 0]);
            let mut newer = ours.clone();
            newer["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["more"] = serde_json::json!({});
            assert_eq!(lacks(&newer, &ours), [""; 0]);
            let mut renamed = ours.clone();
            renamed["versions"][0]["name"] = "v1alpha1".into();
            assert_eq!(lacks(&renamed, &ours), ["version v1"]);
            let mut unserved = ours.clone();
            unserved["versions"][0]["served"] = false.into();
            assert_eq!(lacks(&unserved, &ours), ["version v1"]);
            let mut bare = ours.clone();
            bare["versions"][0].as_object_mut().unwrap().remove("subresources");
            assert_eq!(lacks(&bare, &ours), ["subresource status"]);
            let mut older = ours.clone();
            let status =
                &mut older["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
            let field = status.as_object().unwrap().keys().next_back().unwrap().clone();
            status.as_object_mut().unwrap().remove(&field);
            assert_eq!(lacks(&older, &ours), [format!(".status.{field}")]);
        }
    }
}
