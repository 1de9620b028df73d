//! What the programs log themselves: only in a build with the feature `ebpf-log`, for whoever changes the programs.

use std::{thread, time::Duration};

use aya::Ebpf;
use aya_log::EbpfLogger;
use tracing::warn;

/// How often the log is read.
const PERIOD: Duration = Duration::from_millis(50);

/// Writes the programs' log to this process's for as long as it lives.
pub fn follow(ebpf: &mut Ebpf) {
    let mut logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => return warn!(%error, "the log of the programs cannot be read"),
    };
    let reader = move || loop {
        logger.flush();
        thread::sleep(PERIOD);
    };
    if let Err(error) = thread::Builder::new().name("ebpf-log".to_owned()).spawn(reader) {
        warn!(%error, "the log of the programs will not be read");
    }
}
