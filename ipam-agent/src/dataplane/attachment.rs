//! How programs are attached: by TCX links, or by filters of a clsact qdisc on kernels that have no TCX.

use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use rustix::io::Errno;
use tracing::info;

/// How programs are attached to the hooks of interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Attachment {
    /// Links of the hooks that Linux has since 6.6, pinned.
    Tcx,
    /// Filters of a clsact qdisc, on every kernel.
    Clsact,
}

impl Attachment {
    /// What this kernel has. Asks for the TCX programs of the loopback device, which changes nothing: a kernel that does
    /// not know the hook refuses the question itself.
    #[must_use]
    pub fn probe() -> Self {
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Err(error) if is_unknown_hook(&error) => {
                info!("this kernel has no TCX hooks (Linux 6.6 or later has): using clsact filters");
                Self::Clsact
            }
            // Any other error is none of the hook's: attaching will meet it again and name it.
            _ => Self::Tcx,
        }
    }
}

/// Whether the kernel refused because it knows no TCX hook: before 6.6, or built without `CONFIG_NET_XGRESS`.
pub(super) fn is_unknown_hook(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    let refused = error.io_error.raw_os_error();
    [Errno::INVAL, Errno::OPNOTSUPP].into_iter().any(|errno| refused == Some(errno.raw_os_error()))
}
