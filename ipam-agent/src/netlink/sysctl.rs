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

/// Lets the host stack forward.
///
/// # Errors
/// When the file cannot be read or written.
pub fn enable_ipv4_forwarding() -> Result<bool, SysctlError> {
    set("ipv4/ip_forward", "1")
}

/// Makes the reverse-path filter of a device loose (2): a reply may come in by another ENI than the one the main
/// table would send to. The kernel takes the greater of this value and that of `all`, so it holds even where `all`
/// is strict (1).
///
/// # Errors
/// When the file cannot be read or written.
pub fn loosen_rp_filter(ifname: &str) -> Result<bool, SysctlError> {
    set(&format!("ipv4/conf/{ifname}/rp_filter"), "2")
}

/// Writes a value unless it is there already; answers whether it wrote.
fn set(name: &str, value: &str) -> Result<bool, SysctlError> {
    let path = PathBuf::from("/proc/sys/net").join(name);
    let write = || {
        if fs::read_to_string(&path)?.trim() == value {
            return Ok(false);
        }
        fs::write(&path, value).map(|()| true)
    };
    write().map_err(|source| SysctlError { path: path.clone(), value: value.to_owned(), source })
}
