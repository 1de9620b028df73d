//! Entries of one layout written in another: field by field, by name.

use std::{
    collections::{HashMap, HashSet},
    io,
};

use super::raw::{RawMap, per_cpu_stride};
use crate::dataplane::maps::layout::{FieldAt, Kind, MapLayout, size};

/// Fields that may be missing in another version; they begin as zero, which means: no bit is set (`flags`), nothing
/// (`reserved`), the neighbour is not resolved yet (`gateway_mac_v6`), never (`generation`). Counters may be missing too.
/// All other fields are needed.
const BEGIN_AS_ZERO: [&str; 4] = ["flags", "reserved", "gateway_mac_v6", "generation"];

/// Where the bytes of a field go.
#[derive(Clone, Copy, Debug)]
struct Move {
    from: usize,
    to: usize,
    len: usize,
}

/// Turns keys and values of one map into those of another.
#[derive(Debug)]
pub struct Converter {
    key: Vec<Move>,
    value: Vec<Move>,
    new_key_size: usize,
    new_value_size: usize,
    old_value_size: usize,
    new_entries: usize,
}

impl Converter {
    /// Finds each field of `new` in `old`. Answers what is missing if it cannot.
    pub fn new(old: &MapLayout, new: &MapLayout) -> Result<Self, String> {
        let name = &new.name;
        if old.kind != new.kind {
            return Err(format!("`{name}` is a {}, not a {}", old.kind.name(), new.kind.name()));
        }
        // A key with a field less could be that of two entries.
        if let Some(field) = old.key.iter().find(|field| !new.key.iter().any(|new| new.name == field.name)) {
            return Err(format!("keys of `{name}` have a field `{}` that is not known", field.name));
        }
        let moves = |old: &[FieldAt], new: &[FieldAt], optional: &dyn Fn(&str) -> bool| {
            let mut moves = Vec::new();
            for to in new {
                match old.iter().find(|from| from.name == to.name) {
                    Some(from) if from.len == to.len => {
                        moves.push(Move { from: from.offset, to: to.offset, len: to.len });
                    }
                    Some(from) => {
                        let (found, needed) = (from.len, to.len);
                        return Err(format!("`{name}.{}` has {found} bytes, not {needed}", to.name));
                    }
                    None if optional(&to.name) => {}
                    None => return Err(format!("`{name}` has no field `{}`", to.name)),
                }
            }
            Ok(moves)
        };
        Ok(Self {
            key: moves(&old.key, &new.key, &|_| false)?,
            value: moves(&old.value, &new.value, &|field| {
                new.kind.per_cpu() || BEGIN_AS_ZERO.contains(&field)
            })?,
            new_key_size: size(&new.key),
            new_value_size: size(&new.value),
            old_value_size: size(&old.value),
            new_entries: new.max_entries,
        })
    }

    fn key(&self, old: &[u8]) -> Vec<u8> {
        moved(&self.key, old, self.new_key_size)
    }

    /// A value as the kernel copies it: of every CPU if each has its own.
    fn value(&self, kind: Kind, old: &[u8]) -> Vec<u8> {
        if !kind.per_cpu() {
            return moved(&self.value, old, self.new_value_size);
        }
        let stride = per_cpu_stride(self.new_value_size);
        let cpus = old.chunks_exact(per_cpu_stride(self.old_value_size));
        cpus.flat_map(|cpu| moved(&self.value, cpu, stride)).collect()
    }
}

/// Counters are words of eight bytes, and so is the distance from one CPU's to the next.
fn words(bytes: &mut [u8]) -> impl Iterator<Item = &mut [u8; 8]> {
    bytes.chunks_exact_mut(8).filter_map(|word| word.try_into().ok())
}

fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).filter_map(|word| word.try_into().ok()).map(u64::from_ne_bytes)
}

fn moved(moves: &[Move], old: &[u8], size: usize) -> Vec<u8> {
    let mut new = vec![0; size];
    for &Move { from, to, len } in moves {
        new[to..to + len].copy_from_slice(&old[from..from + len]);
    }
    new
}

/// One map to be converted.
#[derive(Debug)]
pub struct Conversion {
    /// Its name.
    pub name: String,
    /// Its kind in both versions.
    pub kind: Kind,
    /// How.
    pub converter: Converter,
    /// What counters stood at when they were copied, by the new key.
    pub copied: HashMap<Vec<u8>, Vec<u8>>,
}

impl Conversion {
    /// Makes the new map hold what the old one does. A table of flows keeps what it has besides: the new programs may be
    /// at work on it already.
    pub fn fill(&mut self, old: &RawMap, new: &RawMap) -> io::Result<()> {
        let mut wanted = HashSet::new();
        for old_key in old.keys()? {
            let key = self.converter.key(&old_key);
            // The old map may have let it go meanwhile.
            let Some(value) = old.get(&old_key)? else { continue };
            if self.is_there(&key) {
                let value = self.converter.value(self.kind, &value);
                if self.kind.per_cpu() {
                    self.copied.insert(key.clone(), value.clone());
                }
                new.set(&key, value)?;
                wanted.insert(key);
            }
        }
        if !self.kind.is_array() && self.kind != Kind::LruHash {
            // An attempt that was given up may have left some.
            for stale in new.keys()?.iter().filter(|key| !wanted.contains(*key)) {
                new.remove(stale)?;
            }
        }
        Ok(())
    }

    /// Adds to the new counters what the old ones have counted since [`Self::fill`]. What the programs count in the
    /// microseconds between reading and writing a counter here is lost.
    pub fn add_counts(&mut self, old: &RawMap, new: &RawMap) -> io::Result<()> {
        for old_key in old.keys()? {
            let key = self.converter.key(&old_key);
            let Some(value) = old.get(&old_key)? else { continue };
            let value = self.converter.value(self.kind, &value);
            let Some(copied) = self.copied.get(&key).filter(|copied| **copied != value) else { continue };
            let Some(mut sum) = new.get(&key)? else { continue };
            for ((sum, value), copied) in words(&mut sum).zip(words_of(&value)).zip(words_of(copied)) {
                let grown = u64::from_ne_bytes(*sum).wrapping_add(value.wrapping_sub(copied));
                *sum = grown.to_ne_bytes();
            }
            new.set(&key, sum)?;
        }
        Ok(())
    }

    /// Whether the new map has such a key: an array may have become shorter.
    fn is_there(&self, key: &[u8]) -> bool {
        let index = key.first_chunk().map(|index| u32::from_ne_bytes(*index) as usize);
        !self.kind.is_array() || index.is_some_and(|index| index < self.converter.new_entries)
    }
}
