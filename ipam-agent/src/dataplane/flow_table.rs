//! The table of flows that stay on the host stack, as those see it who only look.

use std::{io, path::Path};

use aya::maps::{HashMap, Map, MapData, MapError};
use ipam_common::{
    StackFlow,
    maps::{MAX_STACK_FLOWS, STACK_FLOWS},
};

use super::DataplaneError;

/// A handle of its own to `STACK_FLOWS`: going through a full table takes tens of milliseconds, in which the dataplane
/// must be free for others.
pub struct FlowTable(HashMap<MapData, StackFlow, u32>);

impl FlowTable {
    /// Opens the table pinned in `dir`.
    pub(super) fn open(dir: &Path) -> Result<Self, DataplaneError> {
        let map = MapData::from_pin(dir.join(STACK_FLOWS)).and_then(Map::from_map_data);
        map.and_then(HashMap::try_from).map(Self).map_err(|source| DataplaneError::Map {
            action: "open",
            map: STACK_FLOWS,
            source: Box::new(source),
        })
    }

    /// Number of entries. While flows come and go it is near the truth, not the truth.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn len(&self) -> Result<u64, DataplaneError> {
        // The kernel starts again from the first entry when the one it left off at was given up: go no further than the
        // table can be full.
        let mut entries = self.0.keys().take(MAX_STACK_FLOWS);
        entries.try_fold(0, |count, entry| entry.map(|_| count + 1)).map_err(|source| DataplaneError::Map {
            action: "read",
            map: STACK_FLOWS,
            source: Box::new(source),
        })
    }

    /// Takes an entry out; not an error when it is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&mut self, flow: &StackFlow) -> Result<(), DataplaneError> {
        match self.0.remove(flow) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(source) => {
                Err(DataplaneError::Map { action: "remove", map: STACK_FLOWS, source: Box::new(source) })
            }
        }
    }

    /// Whether it has none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn is_empty(&self) -> Result<bool, DataplaneError> {
        Ok(self.len()? == 0)
    }
}
