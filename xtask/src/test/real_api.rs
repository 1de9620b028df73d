//! Tests that need a real kube-apiserver. They are ignored in general, and run when the environment names one.

use std::env;

use crate::binaries::Executable;

/// What names one, to the tests as well.
const VARIABLES: [&str; 2] = ["KUBEBUILDER_ASSETS", "KUBECONFIG"];

/// Whether the ignored tests of a program can run. If it has such and they cannot, says so.
pub fn serves(program: &Executable) -> bool {
    if !program.integration || !matches!(program.target.as_str(), "api_real" | "cluster") {
        return false;
    }
    let named = VARIABLES.iter().any(|variable| env::var_os(variable).is_some_and(|value| !value.is_empty()));
    if !named {
        let [assets, kubeconfig] = VARIABLES;
        println!(
            "not run, as no kube-apiserver is named: the tests of {}. Set {assets} to a folder with etcd and \
             kube-apiserver, or {kubeconfig} to that of a server without nodes",
            program.target
        );
    }
    named
}
