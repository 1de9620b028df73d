//! `ipam-agent install`: puts the CNI plugin and the network configuration where the runtime looks, and takes
//! them away.
//!
//! A runtime takes the network for ready when it sees the configuration, so the plugin is there before the
//! configuration comes, and after it goes. Each file changes in one rename: a runtime sees the old or the new.

mod conflist;
mod place;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use ipam_cni::{plugin::PLUGIN_TYPE, protocol::DEFAULT_SOCKET};

use self::place::{put, take_away};

/// File of the network configuration. The lowest name in the directory is the one that a kubelet's runtime uses.
pub const CONFLIST: &str = "10-eni-ipam.conflist";

/// Puts the CNI plugin and the network configuration in place, or takes them away.
#[derive(Args, Clone, Debug)]
pub struct InstallArgs {
    /// Take them away instead.
    #[arg(long)]
    pub remove: bool,
    /// The plugin's binary [default: `ipam-cni` beside this program].
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// Where the runtime looks for plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// Where the runtime looks for network configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Where the agent listens, as the plugin sees it.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Chain the reference plugin `portmap`, for host ports. It must be in the plugins' directory.
    #[arg(long)]
    pub with_portmap: bool,
    /// Overwrite or remove files of these names that are not ours.
    #[arg(long)]
    pub force: bool,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was made or replaced.
    Written,
    /// It was taken away.
    Removed,
    /// It was as it should be.
    Unchanged,
}

/// A file and what became of it, in the order of doing.
pub type Report = Vec<(PathBuf, Outcome)>;

/// Does what the arguments ask for.
pub fn run(args: &InstallArgs) -> Result<Report> {
    if args.remove { uninstall(args) } else { install(args) }
}

/// Plugin first, configuration last. Doing it again changes nothing. Every refusal comes before the first change.
pub fn install(args: &InstallArgs) -> Result<Report> {
    let source = source(args)?;
    let binary = fs::read(&source)
        .with_context(|| format!("cannot read the plugin {}: name it with --plugin", source.display()))?;
    if !is_plugin(&binary) {
        bail!("{} is not a build of {PLUGIN_TYPE}: name one with --plugin", source.display());
    }
    let conflist = conflist::build(&args.socket, args.with_portmap)?;
    let (plugin_path, conflist_path) = (plugin_path(args), conflist_path(args));
    check_portmap(args)?;
    refuse_foreign(args, &plugin_path, is_plugin)?;
    refuse_foreign(args, &conflist_path, conflist::is_ours)?;

    let plugin = put(&plugin_path, &binary, 0o755)?;
    let conflist = put(&conflist_path, &conflist, 0o644)?;
    Ok(vec![(plugin_path, plugin), (conflist_path, conflist)])
}

/// Configuration first, plugin last. Files that are not there are as they should be.
pub fn uninstall(args: &InstallArgs) -> Result<Report> {
    let (plugin_path, conflist_path) = (plugin_path(args), conflist_path(args));
    refuse_foreign(args, &conflist_path, conflist::is_ours)?;
    refuse_foreign(args, &plugin_path, is_plugin)?;

    let conflist = take_away(&conflist_path)?;
    let plugin = take_away(&plugin_path)?;
    Ok(vec![(conflist_path, conflist), (plugin_path, plugin)])
}

fn plugin_path(args: &InstallArgs) -> PathBuf {
    args.cni_bin_dir.join(PLUGIN_TYPE)
}

fn conflist_path(args: &InstallArgs) -> PathBuf {
    args.cni_conf_dir.join(CONFLIST)
}

fn source(args: &InstallArgs) -> Result<PathBuf> {
    if let Some(plugin) = &args.plugin {
        return Ok(plugin.clone());
    }
    let own =
        env::current_exe().context("cannot tell where this program lies: name the plugin with --plugin")?;
    Ok(own.with_file_name(PLUGIN_TYPE))
}

/// Every build of the plugin carries a marker.
fn is_plugin(content: &[u8]) -> bool {
    let marker = ipam_cni::plugin::BUILD_MARKER;
    content.windows(marker.len()).any(|part| part == marker)
}

/// A chained plugin that is not there would fail every pod.
fn check_portmap(args: &InstallArgs) -> Result<()> {
    let portmap = args.cni_bin_dir.join("portmap");
    if args.with_portmap && !portmap.is_file() {
        bail!(
            "{} is missing: put the reference plugins there or leave --with-portmap out",
            portmap.display()
        );
    }
    Ok(())
}

fn refuse_foreign(args: &InstallArgs, path: &Path, is_ours: fn(&[u8]) -> bool) -> Result<()> {
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    if !args.force && !is_ours(&content) {
        bail!("{} is there and not ours: move it away, or give --force to lose it", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
