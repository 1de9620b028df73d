//! Maps of another ABI version, older or newer, become ours while packets flow.
//!
//! `DIR` holds the maps that are in use. A migration makes those whose layout differs anew in `DIR/next`, fills them, and
//! has the links run programs that use them and, of the maps whose layout is the same, the old ones. What the programs
//! still in place wrote meanwhile is copied at the end. Then:
//!
//! 1. the version is written into `DIR/next/ABI`: this is the moment from which the new maps count;
//! 2. each map of `DIR/next` is renamed into `DIR`, `LAYOUT` and `ABI` last; before those, pins that the new version does
//!    not know are removed.
//!
//! A crash before 1 leaves `DIR` as it was: an agent of its version carries on with it and puts its own programs back,
//! one of the other version begins again. A crash after it is finished by the next agent of whichever version.
//!
//! One thing has a gap: when the layout of `STACK_FLOWS` itself differs, a flow whose very first packet passes in the few
//! milliseconds between the change of the egress programs and that of the ingress programs may be taken for one that
//! the stack has not touched, until the stack sends its next packet.

mod convert;
mod raw;

use std::{
    collections::HashMap,
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use ipam_common::{
    ABI_VERSION,
    maps::{ABI, DROP_SAMPLES, LAYOUT},
};
use tracing::info;

use self::{
    convert::{Conversion, Converter},
    raw::RawMap,
};
use super::{
    DataplaneError,
    error::chain,
    maps::{
        layout::{Kind, MapLayout, VERSION_1},
        layouts, pinned,
    },
    pin_dir,
};

/// The versions whose maps this agent can read: all that ever were, and the next one, of which it drops what it does not
/// know. A change that an older agent could not live with raises the version by two.
const READABLE: RangeInclusive<u32> = 1..=ABI_VERSION + 1;

/// Maps that hold nothing but moments.
const NOT_KEPT: [&str; 1] = [DROP_SAMPLES];

/// What to do about the maps that are pinned.
#[derive(Debug)]
pub enum Found {
    /// They are ours, or there are none.
    Ours {
        /// A migration to another version was given up half-way: links may run its programs.
        interrupted: bool,
    },
    /// They are of another version.
    Other(Migration),
}

/// A migration under way.
#[derive(Debug)]
pub struct Migration {
    dir: PathBuf,
    from: u32,
    /// Names of the maps that are made anew.
    renewed: Vec<String>,
    conversions: Vec<Conversion>,
}

/// Looks at what is pinned in `dir`, and refuses what is not ours or of a version that cannot be read.
pub fn examine(dir: &Path) -> Result<Found, DataplaneError> {
    let next = dir.join(pin_dir::NEXT);
    match pinned::version(dir)? {
        Some(version) if version != ABI_VERSION => {
            if !READABLE.contains(&version) {
                let path = dir.to_owned();
                return Err(DataplaneError::AbiVersion { path, found: version, readable: READABLE });
            }
            let migration = Migration::plan(dir, version)?;
            // Of the same version, what another agent had begun can be used: it is filled again.
            let ours: Vec<_> = layouts().map(|layout| layout.to_string()).collect();
            if next.exists() && pinned::lines(&next)? != ours {
                pin_dir::remove(&next)?;
            }
            pin_dir::create(&next)?;
            Ok(Found::Other(migration))
        }
        _ => {
            for layout in layouts() {
                pinned::open(dir, &layout)?;
            }
            let lines = pinned::lines(dir)?;
            for ours in layouts().map(|layout| layout.to_string()) {
                let name = ours.split(' ').next().unwrap_or_default();
                let of_the_map = |line: &&String| line.split(' ').next() == Some(name);
                if let Some(found) = lines.iter().find(of_the_map).filter(|line| **line != ours) {
                    let (path, found) = (dir.join(name), found.clone());
                    return Err(DataplaneError::ForeignMap { path, found, expected: ours });
                }
            }
            Ok(Found::Ours { interrupted: next.exists() })
        }
    }
}

/// Finishes a migration that was as good as done, or does nothing.
pub fn finish(dir: &Path) -> Result<(), DataplaneError> {
    let next = dir.join(pin_dir::NEXT);
    if !next.exists() || pinned::version(&next)?.is_none() {
        return Ok(());
    }
    let rename = |name: &str| {
        let from = next.join(name);
        let renamed = fs::rename(&from, dir.join(name));
        renamed.map_err(|source| DataplaneError::Io { action: "rename", path: from, source })
    };
    for name in pin_dir::names(&next)?.iter().filter(|name| ![LAYOUT, ABI].contains(&name.as_str())) {
        rename(name)?;
    }
    if next.join(LAYOUT).exists() {
        let new: Vec<_> = pinned::lines(&next)?.iter().filter_map(|line| MapLayout::parse(line)).collect();
        let old: Vec<_> = pinned::lines(dir)?.iter().filter_map(|line| MapLayout::parse(line)).collect();
        for stale in old.iter().filter(|old| !new.iter().any(|new| new.name == old.name)) {
            pin_dir::unlink(&dir.join(&stale.name))?;
        }
        rename(LAYOUT)?;
    }
    rename(ABI)?;
    pin_dir::remove(&next)
}

/// Removes what a migration that was given up has left. The links must run programs of the maps in `dir` again.
pub fn give_up(dir: &Path) -> Result<(), DataplaneError> {
    pin_dir::remove(&dir.join(pin_dir::NEXT))
}

impl Migration {
    fn plan(dir: &Path, from: u32) -> Result<Self, DataplaneError> {
        let unreadable = |reason: String| DataplaneError::Unreadable { path: dir.to_owned(), reason };
        let mut lines = pinned::lines(dir)?;
        if lines.is_empty() && from == 1 {
            lines = VERSION_1.map(str::to_owned).into();
        }
        let parse = |line: &String| {
            MapLayout::parse(line).ok_or_else(|| unreadable(format!("the line `{line}` of map `{LAYOUT}`")))
        };
        let old = lines.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        if old.is_empty() {
            return Err(unreadable(format!("map `{LAYOUT}` says nothing about version {from}")));
        }
        let mut migration = Self { dir: dir.to_owned(), from, renewed: Vec::new(), conversions: Vec::new() };
        for new in layouts() {
            let former = old.iter().find(|old| old.name == new.name);
            let former = match former {
                Some(former) => pinned::open(dir, former)?.map(|_| former),
                None if dir.join(&new.name).exists() => {
                    return Err(unreadable(format!("`{}` is no map of version {from}", new.name)));
                }
                None => None,
            };
            if former == Some(&new) && ![LAYOUT, ABI].contains(&new.name.as_str()) {
                continue;
            }
            migration.renewed.push(new.name.clone());
            if let Some(former) = former.filter(|_| is_kept(&new)) {
                let converter = Converter::new(former, &new).map_err(unreadable)?;
                migration.conversions.push(Conversion {
                    name: new.name.clone(),
                    kind: new.kind,
                    converter,
                    copied: HashMap::new(),
                });
            }
        }
        Ok(migration)
    }

    /// Where the map of this name is to be pinned.
    pub fn path(&self, name: &str) -> PathBuf {
        if self.renewed.iter().any(|renewed| renewed == name) {
            self.dir.join(pin_dir::NEXT).join(name)
        } else {
            self.dir.join(name)
        }
    }

    /// Fills the new maps from the old ones, which are in use.
    pub fn fill(&mut self) -> Result<(), DataplaneError> {
        info!(from = self.from, to = ABI_VERSION, maps = ?self.renewed, "migrating the maps");
        self.each(|_| true, Conversion::fill)
    }

    /// Copies the flows that were marked in the old table since [`Self::fill`]: when nothing marks there any more.
    pub fn copy_flows(&mut self) -> Result<(), DataplaneError> {
        self.each(|conversion| conversion.kind == Kind::LruHash, Conversion::fill)
    }

    /// Adds what was counted in the old maps since [`Self::fill`]: when nothing counts there any more.
    pub fn add_counts(&mut self) -> Result<(), DataplaneError> {
        self.each(|conversion| conversion.kind.per_cpu(), Conversion::add_counts)
    }

    fn each(
        &mut self,
        chosen: impl Fn(&Conversion) -> bool,
        work: impl Fn(&mut Conversion, &RawMap, &RawMap) -> io::Result<()>,
    ) -> Result<(), DataplaneError> {
        let (old_dir, new_dir) = (self.dir.clone(), self.dir.join(pin_dir::NEXT));
        for conversion in self.conversions.iter_mut().filter(|conversion| chosen(conversion)) {
            let open = |dir: &Path| {
                let path = dir.join(&conversion.name);
                let failed = |source| DataplaneError::Io { action: "open", path: path.clone(), source };
                let data =
                    pinned::open_pinned(&path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
                RawMap::new(data).map_err(|error| failed(io::Error::other(chain(&error))))
            };
            let (old, new) = (open(&old_dir)?, open(&new_dir)?);
            work(conversion, &old, &new).map_err(|source| DataplaneError::Io {
                action: "convert the entries of",
                path: old_dir.join(&conversion.name),
                source,
            })?;
        }
        Ok(())
    }
}

fn is_kept(layout: &MapLayout) -> bool {
    let of_the_version = [LAYOUT, ABI].contains(&layout.name.as_str());
    !of_the_version && layout.kind != Kind::RingBuf && !NOT_KEPT.contains(&layout.name.as_str())
}
