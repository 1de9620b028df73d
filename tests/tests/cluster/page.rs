//! The page that the run of the seed's commands writes: `docs/seed-walkthrough.md`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use ipam_lab::cluster::Cluster;

/// With it, the page is written; without, its commands must be those that were run.
const UPDATE: &str = "ENI_IPAM_UPDATE";

/// The page as it grows.
pub struct Page {
    text: String,
}

impl Page {
    pub fn new(version: &str) -> Self {
        Self {
            text: format!(
                "# The seed's commands, on a real kube-apiserver\n\n\
                 Written by `cargo xtask test cluster --update`, which runs every command here with kubectl on kube-apiserver\n\
                 {version} and checks what it says before it goes on. `deploy/overlays/tencent` is applied; controller and node\n\
                 agents are the real programs, with the tokens of its service accounts; the cloud is the lab's. The lab\n\
                 plays what a bare API server lacks: the workload controller and the scheduler that make pods, and the kubelets.\n"
            ),
        }
    }

    pub fn title(&mut self, title: &str) {
        self.text += &format!("\n## {title}\n");
    }

    pub fn say(&mut self, text: &str) {
        self.text += &format!("\n{text}\n");
    }

    /// Runs a command line in a shell on the controller's machine, and shows it with what it printed.
    pub fn run(&mut self, cluster: &Cluster, line: &str) -> Result<String> {
        let output = cluster
            .lab
            .ctl()
            .command("sh")
            .args(["-c", line])
            .env("KUBECONFIG", cluster.kubeconfig())
            .env("HOME", cluster.lab.ctl().dir())
            .current_dir(cluster.lab.ctl().dir())
            .output()?;
        let [text, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        ensure!(output.status.success(), "{line}: {text}{errors}");
        let shown: String =
            format!("{text}{errors}").lines().map(|line| format!("{}\n", line.trim_end())).collect();
        self.text += &format!("\n```console\n$ {line}\n{shown}```\n");
        Ok(shown)
    }

    /// Writes the page, or compares its commands with those of the page that is there.
    pub fn finish(self) -> Result<()> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/seed-walkthrough.md");
        if std::env::var_os(UPDATE).is_some() {
            return fs::write(&path, self.text).with_context(|| path.display().to_string());
        }
        let there = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        if skeleton(&there) != skeleton(&self.text) {
            bail!(
                "docs/seed-walkthrough.md is stale: run `cargo xtask test cluster --update` and commit what it writes"
            );
        }
        Ok(())
    }
}

/// Everything but what commands printed, which has addresses and times in it, addresses in commands, and the server's
/// version.
fn skeleton(page: &str) -> Vec<String> {
    let mut printed = false;
    page.lines()
        .filter(|line| {
            printed = match *line {
                "```console" => true,
                "```" => false,
                _ => printed,
            };
            (!printed || line.starts_with("$ ")) && !line.starts_with("v1.")
        })
        .map(|line| {
            let words = line.split(' ').filter(|word| {
                let name = word.rsplit('/').next().unwrap_or(word);
                name.parse::<std::net::IpAddr>().is_err()
            });
            words.collect::<Vec<_>>().join(" ")
        })
        .collect()
}
