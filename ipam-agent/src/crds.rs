//! The definitions of the custom resources, as YAML for `kubectl apply`. `deploy/base/crds` has a copy.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResourceExt, ResourceExt};

use crate::api::{NodeENIConfig, VpcIP, VpcIPClaim};

mod served;

pub use served::check;

/// The definitions, in the order they are printed.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![VpcIP::crd(), VpcIPClaim::crd(), NodeENIConfig::crd()]
}

/// A file for each definition: its name, such as `vpcips.eni-ipam.dev.yaml`, and its YAML.
#[must_use]
pub fn files() -> Vec<(String, String)> {
    definitions().iter().map(|crd| (format!("{}.yaml", crd.name_any()), document(crd))).collect()
}

/// All definitions as one stream of YAML documents.
#[must_use]
pub fn yaml() -> String {
    files().into_iter().map(|(_, document)| format!("---\n{document}")).collect()
}

fn document(crd: &CustomResourceDefinition) -> String {
    serde_saphyr::to_string(crd)
        .expect("a definition has only string keys and writing to memory does not fail")
}

#[cfg(test)]
mod tests;
