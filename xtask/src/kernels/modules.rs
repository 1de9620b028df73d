//! The modules that the tests may want, so that the kernel can load them by itself, as on a real node.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::fetch::Unpacked;

/// Folders and files beneath a release's modules, by the beginning of their path.
const WANTED: [&str; 15] = [
    "kernel/crypto/crc32c",
    "kernel/drivers/net/dummy",
    "kernel/drivers/net/ifb",
    "kernel/drivers/net/macvlan",
    "kernel/drivers/net/tun",
    "kernel/drivers/net/veth",
    "kernel/drivers/net/vxlan",
    "kernel/net/8021q",
    "kernel/net/bridge",
    "kernel/net/ipv4/netfilter",
    "kernel/net/ipv6/netfilter",
    "kernel/net/netfilter",
    "kernel/net/packet",
    "kernel/net/sched",
    "kernel/net/sctp",
];

/// What is built in, and the order of what is not.
const LISTS: [&str; 3] = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];

/// Picks the wanted modules and what they depend on, unpacked, with an index for `modprobe`. Returns the folder
/// that holds `lib/modules/RELEASE`.
///
/// # Errors
/// A tool is missing or fails.
pub fn stage(kernel: &Unpacked, folder: &Path) -> Result<PathBuf> {
    let stage = folder.join("stage");
    if stage.join("done").exists() {
        return Ok(stage);
    }
    let place = Path::new("lib/modules").join(&kernel.release);
    let (from, to) = (kernel.root.join(&place), stage.join(&place));
    // Since 7.0 these are in a package of their own. `depmod` only warns without.
    for list in LISTS.map(|list| from.join(list)).iter().filter(|list| !list.exists()) {
        fs::write(list, "")?;
    }
    index(&kernel.root, &kernel.release)?;
    let dependencies = fs::read_to_string(from.join("modules.dep")).context("modules.dep")?;
    for module in closure(&dependencies) {
        let target = to.join(module);
        fs::create_dir_all(target.parent().context("a module's path has a folder")?)?;
        unpack(&from.join(module), &target).with_context(|| module.to_owned())?;
    }
    for list in LISTS {
        fs::copy(from.join(list), to.join(list))?;
    }
    index(&stage, &kernel.release)?;
    fs::write(stage.join("done"), "")?;
    Ok(stage)
}

fn index(base: &Path, release: &str) -> Result<()> {
    let status = Command::new("/sbin/depmod").arg("-b").arg(base).arg(release).status().context("depmod")?;
    ensure!(status.success(), "depmod cannot index the modules of {release}");
    Ok(())
}

/// `modules.dep` → the paths of the wanted modules and of all that they need.
fn closure(dependencies: &str) -> BTreeSet<&str> {
    let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    let wanted = lines.filter(|(module, _)| WANTED.iter().any(|prefix| module.starts_with(prefix)));
    // The file lists the dependencies of dependencies too.
    wanted.flat_map(|(module, needs)| std::iter::once(module).chain(needs.split_whitespace())).collect()
}

/// Busybox loads only what is not compressed; `modprobe` finds a module by the name that `depmod` saw.
fn unpack(from: &Path, to: &Path) -> Result<()> {
    let program = match from.extension().and_then(|it| it.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => {
            fs::copy(from, to)?;
            return Ok(());
        }
    };
    let out = fs::File::create(to.with_extension(""))?;
    let mut command = Command::new(program);
    command.args(["--decompress", "--stdout"]).arg(from).stdin(Stdio::null()).stdout(out);
    ensure!(command.status().with_context(|| program.to_owned())?.success(), "{program} cannot unpack it");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::closure;

    #[test]
    fn dependencies_come_with_the_wanted() {
        let text = "kernel/net/sctp/sctp.ko.xz: kernel/lib/libcrc32c.ko.xz kernel/net/x.ko.xz\n\
                    kernel/lib/libcrc32c.ko.xz:\nkernel/fs/xfs.ko.xz: kernel/lib/other.ko.xz\n";
        let found: Vec<_> = closure(text).into_iter().collect();
        assert_eq!(found, ["kernel/lib/libcrc32c.ko.xz", "kernel/net/sctp/sctp.ko.xz", "kernel/net/x.ko.xz"]);
    }
}
