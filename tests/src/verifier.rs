//! How many instructions a kernel's verifier walks through when it takes a program.
//!
//! Kernels since 5.16 tell it of every loaded program (`bpf_prog_info.verified_insns`), and all of them in the log of
//! the verifier. The agent's loader asks for that log only when a program is refused; so here the same instructions,
//! on the maps of a loaded dataplane, are loaded once more, with the log's statistics.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CStr;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, anyhow};
use aya::maps::{MapFd, loaded_maps};
use aya_obj::Object;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type};

/// Names of maps are cut to this in the kernel (`BPF_OBJ_NAME_LEN` with its zero).
const NAME_LEN: usize = 15;
/// `BPF_LOG_STATS` of the kernel's `bpf_verifier.h`: figures only, not every step.
const LOG_STATS: u32 = 4;
/// Room for the statistics.
const LOG_LEN: usize = 16 << 10;

/// Instructions by program of `object`, whose maps are those of the newest dataplane on this machine.
///
/// # Errors
/// The object is none of ours, its maps are not loaded, or the kernel refuses a program: with the verifier's words.
pub fn instructions(object: &[u8]) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut object = Object::parse(object)?;
    let maps = object.maps.clone();
    let fds = map_fds()?;
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let mut used = Vec::new();
    for (name, map) in &maps {
        let short: String = name.chars().take(NAME_LEN).collect();
        let fd = fds.get(&short).with_context(|| format!("no dataplane has the map {name}"))?;
        used.push((name.as_str(), fd.as_fd().as_raw_fd(), map));
    }
    object.relocate_maps(used.into_iter(), &sections)?;
    object.relocate_calls(&sections)?;
    let mut found = BTreeMap::new();
    for (name, program) in &object.programs {
        let function = &object.functions[&program.function_key()];
        let log = load(&function.instructions, &program.license).with_context(|| name.clone())?;
        let count = processed(&log).ok_or_else(|| anyhow!("{name}: no figures in {log:?}"))?;
        found.insert(name.clone(), count);
    }
    Ok(found)
}

/// The newest map of each name.
fn map_fds() -> anyhow::Result<HashMap<String, MapFd>> {
    let mut fds = HashMap::new();
    for map in loaded_maps() {
        let map = map?;
        if let Some(name) = map.name_as_str() {
            fds.insert(name.to_owned(), map.fd()?);
        }
    }
    Ok(fds)
}

/// Loads a TC program, and lets go of it at once. Returns the verifier's log.
fn load(instructions: &[bpf_insn], license: &CStr) -> anyhow::Result<String> {
    let mut log = vec![0_u8; LOG_LEN];
    // SAFETY: the union is made of integers, for all of which zero is a value.
    let mut attr: bpf_attr = unsafe { zeroed() };
    // SAFETY: this is the part of the union that BPF_PROG_LOAD reads, and all of it is initialised.
    let request = unsafe { &mut attr.__bindgen_anon_3 };
    request.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    request.insns = instructions.as_ptr() as u64;
    request.insn_cnt = u32::try_from(instructions.len())?;
    request.license = license.as_ptr() as u64;
    request.log_level = LOG_STATS;
    request.log_buf = log.as_mut_ptr() as u64;
    request.log_size = u32::try_from(log.len())?;
    let size = u32::try_from(size_of::<bpf_attr>())?;
    // SAFETY: the pointers are those of slices that live beyond the call, with their lengths; `log` is written to.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_PROG_LOAD as u32, &raw const attr, size) };
    let error = io::Error::last_os_error();
    let text = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
    if fd < 0 {
        return Err(error).with_context(|| format!("BPF_PROG_LOAD: {text}"));
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) });
    Ok(text)
}

/// `processed 702 insns (limit 1000000) max_states_per_insn 5 …`
fn processed(log: &str) -> Option<u64> {
    log.lines().find_map(|line| line.strip_prefix("processed ")?.split(' ').next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::processed;

    #[test]
    fn the_figure_is_found() {
        let log = "verification time 51590 usec\nstack depth 64\nprocessed 376 insns (limit 1000000) total_states 21\n";
        assert_eq!(processed(log), Some(376));
        assert_eq!(processed("R1 invalid mem access"), None);
    }
}
