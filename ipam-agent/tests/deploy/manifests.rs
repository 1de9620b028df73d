//! Rendering, and finding things in what was rendered.

use std::{fs, io::ErrorKind, path::PathBuf, process::Command, sync::LazyLock};

use serde_json::Value;

/// An overlay as kubectl renders it.
pub struct Manifests {
    pub overlay: String,
    pub objects: Vec<Value>,
}

/// The folder `deploy/`.
pub fn deploy() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Every overlay, rendered once.
pub fn overlays() -> &'static [Manifests] {
    static OVERLAYS: LazyLock<Vec<Manifests>> = LazyLock::new(|| {
        let folders = fs::read_dir(deploy().join("overlays")).unwrap();
        folders.map(|entry| render(entry.unwrap().file_name().into_string().unwrap())).collect()
    });
    assert!(!OVERLAYS.is_empty());
    &OVERLAYS
}

fn render(overlay: String) -> Manifests {
    let rendered =
        Command::new("kubectl").arg("kustomize").arg(deploy().join("overlays").join(&overlay)).output();
    let rendered = match rendered {
        Ok(rendered) => rendered,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("kubectl is missing: `cargo xtask setup` installs it")
        }
        Err(error) => panic!("kubectl: {error}"),
    };
    assert!(rendered.status.success(), "{overlay}: {}", String::from_utf8_lossy(&rendered.stderr));
    let objects = serde_saphyr::from_multiple(&String::from_utf8(rendered.stdout).unwrap()).unwrap();
    Manifests { overlay, objects }
}

impl Manifests {
    /// All objects of a kind.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The object of that kind and name.
    pub fn one(&self, kind: &str, name: &str) -> &Value {
        self.of_kind(kind)
            .find(|object| object["metadata"]["name"] == name)
            .unwrap_or_else(|| panic!("{}: no {kind} {name}", self.overlay))
    }

    /// The workloads: Deployments and DaemonSets.
    pub fn workloads(&self) -> impl Iterator<Item = &Value> {
        self.of_kind("Deployment").chain(self.of_kind("DaemonSet"))
    }

    /// Every container with the spec of its pod.
    pub fn containers(&self) -> impl Iterator<Item = (&Value, &Value)> {
        self.workloads().map(|workload| &workload["spec"]["template"]["spec"]).flat_map(|pod| {
            items(&pod["initContainers"])
                .chain(items(&pod["containers"]))
                .map(move |container| (pod, container))
        })
    }

    /// The container that runs this subcommand of `ipam-agent`, with the spec of its pod.
    pub fn running(&self, subcommand: &str) -> (&Value, &Value) {
        self.containers()
            .find(|(_, container)| container["args"][0] == subcommand)
            .unwrap_or_else(|| panic!("{}: nothing runs `ipam-agent {subcommand}`", self.overlay))
    }
}

/// The items of a list; none when it is absent.
pub fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// The texts of a list.
pub fn texts(list: &Value) -> Vec<&str> {
    items(list).map(|item| item.as_str().unwrap_or_else(|| panic!("{item} is no text"))).collect()
}
