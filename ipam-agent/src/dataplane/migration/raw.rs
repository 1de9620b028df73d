//! Entries as bytes, of maps whose types are known only at run time: aya's maps know theirs when they are compiled.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::{MapData, MapError, MapType};

/// Commands of bpf(2), `linux/bpf.h`.
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;

/// The part of `union bpf_attr` that those commands read.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value_or_next_key: u64,
    flags: u64,
}

/// A map of any type.
pub struct RawMap {
    data: MapData,
    key_size: usize,
    /// Of all CPUs together, if each has its own.
    value_size: usize,
}

impl RawMap {
    /// Wraps a map.
    pub fn new(data: MapData) -> Result<Self, MapError> {
        let info = data.info()?;
        let (key_size, mut value_size) = (info.key_size() as usize, info.value_size() as usize);
        if matches!(info.map_type(), Ok(MapType::PerCpuHash | MapType::PerCpuArray)) {
            value_size = per_cpu_stride(value_size) * aya::util::nr_cpus().map_err(|(_, error)| error)?;
        }
        Ok(Self { data, key_size, value_size })
    }

    /// All keys. Entries that come while this looks may be among them or not.
    pub fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        let mut seen = HashSet::new();
        let mut last: Option<Vec<u8>> = None;
        loop {
            let mut next = vec![0; self.key_size];
            match self.call(BPF_MAP_GET_NEXT_KEY, last.as_deref(), &mut next) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(keys),
                Err(error) => return Err(error),
            }
            // The kernel begins again when the last key has gone meanwhile.
            if !seen.insert(next.clone()) {
                return Ok(keys);
            }
            keys.push(next.clone());
            last = Some(next);
        }
    }

    /// The value of a key, `None` if there is none.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.check(key, self.key_size)?;
        let mut value = vec![0; self.value_size];
        match self.call(BPF_MAP_LOOKUP_ELEM, Some(key), &mut value) {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a value.
    pub fn set(&self, key: &[u8], mut value: Vec<u8>) -> io::Result<()> {
        self.check(key, self.key_size)?;
        self.check(&value, self.value_size)?;
        self.call(BPF_MAP_UPDATE_ELEM, Some(key), &mut value)
    }

    /// Removes an entry; none is fine.
    pub fn remove(&self, key: &[u8]) -> io::Result<()> {
        self.check(key, self.key_size)?;
        match self.call(BPF_MAP_DELETE_ELEM, Some(key), &mut []) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn check(&self, bytes: &[u8], size: usize) -> io::Result<()> {
        if bytes.len() == size { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// `key` has `key_size` bytes, and `other` as many as the command reads or writes beside it.
    fn call(&self, command: libc::c_int, key: Option<&[u8]>, other: &mut [u8]) -> io::Result<()> {
        let attr = ElementAttr {
            map_fd: self.data.fd().as_fd().as_raw_fd().cast_unsigned(),
            padding: 0,
            key: key.map_or(0, |key| key.as_ptr() as u64),
            value_or_next_key: other.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: `attr` is laid out as the kernel's, and of the size given. The kernel reads a key at `key`, and reads or
        // writes a value or a key at the other pointer: `new` asked it for their sizes, which never change, and callers
        // give buffers of those.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<ElementAttr>()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Bytes from the value of one CPU to that of the next in what the kernel copies.
pub fn per_cpu_stride(value_size: usize) -> usize {
    value_size.next_multiple_of(8)
}
