//! Kernels from Debian's archive, verified by Debian's keyring, without touching this machine's own apt.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Archive, Kernel};

/// What every release of Debian calls its newest kernel for virtual machines.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// The packages behind it that hold files: since 7.0 image and modules are apart.
const WITH_FILES: [&str; 3] = ["linux-binary-", "linux-image-", "linux-modules-"];
/// File with version and packages of what is unpacked.
const STAMP: &str = "unpacked";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where apt's own configuration lists what it fetches from.
const SOURCES: &str = "/etc/apt";

/// A kernel on the disk.
#[derive(Debug)]
pub struct Unpacked {
    /// The package's version.
    pub version: String,
    /// Where its packages are unpacked.
    pub root: PathBuf,
    /// What `uname -r` says.
    pub release: String,
    /// The image.
    pub image: PathBuf,
}

/// The archives' addresses, from this machine's own configuration of apt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    main: String,
    security: String,
}

impl Mirror {
    /// `given` is the address of a mirror's `debian` directory; without, it is looked up.
    ///
    /// # Errors
    /// No source of this machine is an archive of Debian.
    pub fn find(given: Option<&str>) -> Result<Self> {
        let text = match given {
            Some(address) => address.to_owned(),
            None => sources(Path::new(SOURCES))?,
        };
        Self::parse(&text).with_context(|| {
            format!(
                "no source in {SOURCES} ends in /debian: say where the archive is, with --mirror URL/debian"
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let addresses = || {
            let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
            lines.flat_map(str::split_whitespace).map(|word| word.trim_end_matches('/'))
        };
        let ends =
            |end: &str| addresses().find(|it| it.contains("://") && it.ends_with(end)).map(str::to_owned);
        let main = ends("/debian")?;
        // Most mirrors have both side by side.
        let security = ends("/debian-security").unwrap_or_else(|| format!("{main}-security"));
        Some(Self { main, security })
    }

    fn source(&self, kernel: &Kernel) -> String {
        let address = match kernel.archive {
            Archive::Main => &self.main,
            Archive::Security => &self.security,
        };
        format!("deb [arch=amd64 signed-by={KEYRING}] {address} {} main\n", kernel.suite)
    }
}

fn sources(folder: &Path) -> Result<String> {
    let mut text = fs::read_to_string(folder.join("sources.list")).unwrap_or_default();
    if let Ok(entries) = fs::read_dir(folder.join("sources.list.d")) {
        for entry in entries {
            text.push('\n');
            text.push_str(&fs::read_to_string(entry?.path()).unwrap_or_default());
        }
    }
    Ok(text)
}

/// apt with a configuration of its own beneath `folder`.
struct Apt<'a>(&'a Path);

impl Apt<'_> {
    fn prepare(&self, source: &str) -> Result<()> {
        for folder in ["lists/partial", "cache/archives/partial", "debs"] {
            fs::create_dir_all(self.0.join(folder))?;
        }
        fs::write(self.0.join("sources.list"), source)?;
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = |name: &str| self.0.join(name).display().to_string();
        for option in [
            format!("Dir::Etc::sourcelist={}", path("sources.list")),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State={}", self.0.display()),
            format!("Dir::State::lists={}", path("lists")),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={}", path("cache")),
            "APT::Architecture=amd64".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command.current_dir(self.0.join("debs"));
        command
    }

    /// A field of the newest version of a package.
    fn field(&self, package: &str, field: &str) -> Result<String> {
        let output = self.command("apt-cache").args(["show", "--no-all-versions", package]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "));
        value.map(str::to_owned).with_context(|| format!("the archive has no package `{package}`"))
    }
}

/// Downloads and unpacks the newest kernel of a release; what is there already is kept.
///
/// # Errors
/// No network and nothing from an earlier run, a signature that does not verify, or a full disk.
pub fn fetch(kernel: &Kernel, mirror: &Mirror, folder: &Path) -> Result<Unpacked> {
    ensure!(
        Path::new(KEYRING).exists(),
        "{KEYRING} is not there: install the package debian-archive-keyring"
    );
    let apt = Apt(folder);
    apt.prepare(&mirror.source(kernel))?;
    let updated = apt.command("apt-get").args(["--quiet", "--quiet", "update"]).status()?;
    if !updated.success() {
        println!(
            "{}: package lists could not be updated; going on with those of an earlier run",
            kernel.name
        );
    }
    let packages = packages(|package| apt.field(package, "Depends"))?;
    let version = apt.field(META_PACKAGE, "Version")?;
    let root = folder.join("root");
    let stamp = folder.join(STAMP);
    let wanted = format!("{version} {packages:?}");
    if fs::read_to_string(&stamp).ok().as_deref() != Some(&wanted) {
        for old in ["root", "debs", "stage"].map(|name| folder.join(name)).iter().filter(|it| it.exists()) {
            fs::remove_dir_all(old)?;
        }
        fs::create_dir_all(folder.join("debs"))?;
        let status =
            apt.command("apt-get").args(["--quiet", "--quiet", "download"]).args(&packages).status()?;
        ensure!(status.success(), "cannot download {packages:?}");
        for package in fs::read_dir(folder.join("debs"))? {
            let status = Command::new("dpkg").arg("-x").arg(package?.path()).arg(&root).status()?;
            ensure!(status.success(), "cannot unpack {packages:?}");
        }
        // Releases before 13 have `/lib`, later ones `/usr/lib` alone.
        if !root.join("lib").exists() {
            std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
        }
        fs::write(&stamp, wanted)?;
    }
    let (release, image) = image(&root)?;
    Ok(Unpacked { version, root, release, image })
}

/// Version of the kernel that was unpacked last.
pub fn last_version(folder: &Path) -> Option<String> {
    let stamp = fs::read_to_string(folder.join(STAMP)).ok()?;
    Some(stamp.split(' ').next()?.to_owned())
}

/// The packages with files behind the meta package.
fn packages(depends: impl Fn(&str) -> Result<String>) -> Result<Vec<String>> {
    let mut found = BTreeSet::new();
    let mut open = vec![META_PACKAGE.to_owned()];
    while let Some(package) = open.pop() {
        let depends = depends(&package)?;
        let names = depends.split(", ").filter_map(|it| it.split(' ').next());
        for name in names.filter(|name| WITH_FILES.iter().any(|prefix| name.starts_with(prefix))) {
            if found.insert(name.to_owned()) {
                open.push(name.to_owned());
            }
        }
    }
    ensure!(!found.is_empty(), "{META_PACKAGE} depends on no kernel");
    Ok(found.into_iter().collect())
}

/// The release, from the name of its modules' folder, and the image: in `/boot`, or since 7.0 beside the modules.
fn image(root: &Path) -> Result<(String, PathBuf)> {
    let modules = root.join("lib/modules");
    for entry in fs::read_dir(&modules).with_context(|| modules.display().to_string())? {
        let entry = entry?;
        let release = entry.file_name().to_string_lossy().into_owned();
        let places = [root.join("boot").join(format!("vmlinuz-{release}")), entry.path().join("vmlinuz")];
        if let Some(image) = places.into_iter().find(|path| path.exists()) {
            return Ok((release, image));
        }
    }
    bail!("{}: no kernel image in it", root.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_this_machines_own() {
        let old = "# deb http://no.example/debian x\ndeb [a=b] http://one.example/debian/ bookworm main\n";
        let mirror =
            |main: &str, security: &str| Some(Mirror { main: main.into(), security: security.into() });
        assert_eq!(
            Mirror::parse(old),
            mirror("http://one.example/debian", "http://one.example/debian-security")
        );
        let new = "URIs: http://one.example/debian\n\nURIs: https://two.example/x/debian-security\n";
        assert_eq!(
            Mirror::parse(new),
            mirror("http://one.example/debian", "https://two.example/x/debian-security")
        );
        assert_eq!(Mirror::parse("deb http://one.example/ubuntu noble main"), None);
    }

    #[test]
    fn packages_without_files_are_not_wanted() {
        let found = packages(|package| {
            Ok(match package {
                META_PACKAGE => "linux-base-cloud-amd64 (= 7), linux-image-7-cloud-amd64 (= 7)",
                "linux-image-7-cloud-amd64" => {
                    "dracut | initramfs-tools, linux-binary-7 (= 7), linux-modules-7 (= 7)"
                }
                _ => "kmod",
            }
            .to_owned())
        });
        assert_eq!(found.expect("some"), ["linux-binary-7", "linux-image-7-cloud-amd64", "linux-modules-7"]);
    }
}
