//! `/proc/sys/net` of the calling thread's network namespace.

use std::{fs, io, path::PathBuf};

/// A sysctl that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("sysctl `{}` = {value:?}: {source}", path.display())]
pub struct SysctlError {
    /// The file.
    pub path: PathBuf,
    /// The value that was wanted.
    pub value: String,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// Lets the host stack forward; answers whether it did not.
///
/// # Errors
/// When the file cannot be read or written.
pub fn enable_ipv4_forwarding() -> Result<bool, SysctlError> {
    Ok(set("ipv4/ip_forward", "1")?.is_some())
}

/// What a parameter is now, by its path beneath `/proc/sys/net`; `None`: it cannot be read.
#[must_use]
pub fn read(name: &str) -> Option<String> {
    let path = PathBuf::from("/proc/sys/net").join(name);
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The reverse-path filter that a device has in effect: 0 off, 1 strict, 2 loose. It is the greater of its own and that
/// of `all` (`Documentation/networking/ip-sysctl.rst`).
#[must_use]
pub fn rp_filter(ifname: &str) -> Option<u8> {
    let value = |of: &str| read(&format!("ipv4/conf/{of}/rp_filter"))?.parse::<u8>().ok();
    Some(value(ifname)?.max(value("all")?))
}

/// Lets the host stack forward IPv6. The kernel then takes every interface for a router's, which accepts no router
/// advertisements any more: those that did (1) go on doing so (2), or the node would lose the routes that it has from
/// them.
///
/// # Errors
/// When a file cannot be read or written.
pub fn enable_ipv6_forwarding() -> Result<bool, SysctlError> {
    let all = PathBuf::from("/proc/sys/net/ipv6/conf");
    if fs::read_to_string(all.join("all/forwarding")).is_ok_and(|text| text.trim() == "1") {
        return Ok(false);
    }
    for entry in fs::read_dir(&all).into_iter().flatten().flatten() {
        let accepts = fs::read_to_string(entry.path().join("accept_ra")).is_ok_and(|text| text.trim() == "1");
        let name = entry.file_name();
        if accepts && name != "all" {
            set(&format!("ipv6/conf/{}/accept_ra", name.to_string_lossy()), "2")?;
        }
    }
    Ok(set("ipv6/conf/all/forwarding", "1")?.is_some())
}

/// Makes an ENI or the node's end of a pod's link ready for IPv6: on, without routes or addresses from router
/// advertisements (its next hop is known, and a second default route would lead the node's own traffic astray), and
/// without the delay of duplicate address detection, for the cloud says whose an address is. Answers what was otherwise.
///
/// Where `/proc/sys` is read-only, as in a container without privileges, the first and the last stay as they are: a device
/// that forwards takes no routes from advertisements (`accept_ra` 1), and detection delays the link-local address only.
///
/// # Errors
/// When a file cannot be read or written.
pub fn prepare_v6(ifname: &str) -> Result<Vec<String>, SysctlError> {
    let mut found = Vec::new();
    for (name, value) in [("accept_ra", "0"), ("accept_dad", "0"), ("disable_ipv6", "0")] {
        let was = match set(&format!("ipv6/conf/{ifname}/{name}"), value) {
            Err(error)
                if error.source.kind() == io::ErrorKind::ReadOnlyFilesystem && name != "disable_ipv6" =>
            {
                continue;
            }
            outcome => outcome?,
        };
        found.extend(was.map(|was| format!("{name}={was}")));
    }
    Ok(found)
}

/// Writes a value unless it is there already; answers the one that was there instead.
fn set(name: &str, value: &str) -> Result<Option<String>, SysctlError> {
    let path = PathBuf::from("/proc/sys/net").join(name);
    let write = || {
        let was = fs::read_to_string(&path)?.trim().to_owned();
        if was == value {
            return Ok(None);
        }
        fs::write(&path, value).map(|()| Some(was))
    };
    write().map_err(|source| SysctlError { path: path.clone(), value: value.to_owned(), source })
}
