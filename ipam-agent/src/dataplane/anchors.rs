//! A hold on every map, so that it can be pinned again when its pin, the directory or the whole bpffs was removed. The
//! programs go on with the same maps meanwhile.

use std::path::Path;

use aya::maps::MapData;

use super::{
    DataplaneError,
    maps::{names, open_pinned},
    pin_dir,
};

/// The maps by the names of their pins.
pub struct Anchors(Vec<(&'static str, MapData)>);

impl Anchors {
    /// Opens every map that is pinned in `dir`.
    pub fn hold(dir: &Path) -> Result<Self, DataplaneError> {
        let held = names().map(|name| Ok(open_pinned(&dir.join(name))?.map(|map| (name, map))));
        Ok(Self(held.filter_map(Result::transpose).collect::<Result<_, DataplaneError>>()?))
    }

    /// Pins the maps again whose pins are gone, after mounting the bpffs if that is; answers what was done.
    pub fn keep(&self, dir: &Path) -> Result<Vec<&'static str>, DataplaneError> {
        let mut pinned = Vec::new();
        if let Err(DataplaneError::NotBpffs { .. }) = pin_dir::prepare(dir) {
            pin_dir::remount(dir)?;
            pinned.push("bpffs");
        }
        pin_dir::prepare(dir)?;
        for (name, map) in &self.0 {
            let path = dir.join(name);
            match open_pinned(&path)? {
                Some(found) if id(&found, &path)? == id(map, &path)? => {}
                Some(_) => return Err(DataplaneError::ForeignPin { path, expected: "map of this agent" }),
                None => {
                    map.pin(&path).map_err(|source| DataplaneError::Map {
                        action: "pin",
                        map: name,
                        source: Box::new(aya::maps::MapError::PinError {
                            name: Some((*name).to_owned()),
                            error: source,
                        }),
                    })?;
                    pinned.push(*name);
                }
            }
        }
        Ok(pinned)
    }
}

fn id(map: &MapData, path: &Path) -> Result<u32, DataplaneError> {
    let info = map.info();
    info.map(|info| info.id())
        .map_err(|_| DataplaneError::ForeignPin { path: path.to_owned(), expected: "map" })
}
