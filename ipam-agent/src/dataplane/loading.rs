//! Loading the object, and taking over from the agent before.

use std::{borrow::Cow, io, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SchedClassifier},
};

use super::{
    DataplaneError, Program, clsact, link_pins, maps,
    migration::{self, Found},
    pin_dir,
};

/// The object that `build.rs` makes of `ipam-ebpf`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipam-ebpf"));

/// Makes or opens the maps, and loads the programs on them.
pub fn load(dir: &Path, found: &Found) -> Result<Ebpf, DataplaneError> {
    let mut loader = EbpfLoader::new();
    // The programs need no relocation against the kernel's own types.
    loader.btf(None);
    let layouts: Vec<_> = maps::layouts().collect();
    for name in layouts.iter().map(|layout| layout.name.as_str()) {
        let path = match found {
            Found::Ours { .. } => dir.join(name),
            Found::Other(migration) => migration.path(name),
        };
        loader.map_pin_path(name, Cow::Owned(path));
    }
    let mut ebpf = loader.load(OBJECT).map_err(|source| DataplaneError::Load(Box::new(source)))?;
    maps::describe(&mut ebpf)?;
    for program in Program::ALL {
        with_program(&mut ebpf, program, load_program)?;
    }
    Ok(ebpf)
}

/// Loads a program. The verifier gives up with EAGAIN when the thread has a signal to handle; libbpf tries five times too.
fn load_program(program: &mut SchedClassifier) -> Result<(), ProgramError> {
    let interrupted = |error: &ProgramError| match error {
        ProgramError::LoadError { io_error, .. } => io_error.kind() == io::ErrorKind::WouldBlock,
        _ => false,
    };
    for _ in 1..5 {
        match program.load() {
            Err(error) if interrupted(&error) => {}
            loaded => return loaded,
        }
    }
    program.load()
}

/// Makes the maps ours for good: those of another version give their entries, and their programs their places.
pub fn adopt(ebpf: &mut Ebpf, dir: &Path, found: Found) -> Result<(), DataplaneError> {
    match found {
        Found::Ours { interrupted } => {
            maps::mark(ebpf)?;
            if interrupted {
                replace_everywhere(ebpf, dir, &Program::ALL)?;
                migration::give_up(dir)?;
            }
        }
        Found::Other(mut migration) => {
            migration.fill()?;
            // Those that mark flows before those that look for marks: no mark is missed.
            replace_everywhere(ebpf, dir, &[Program::ToPod, Program::ToEni])?;
            migration.copy_flows()?;
            replace_everywhere(ebpf, dir, &[Program::FromPod, Program::FromEni])?;
            migration.add_counts()?;
            maps::mark(ebpf)?;
            migration::finish(dir)?;
        }
    }
    Ok(())
}

/// Puts these programs in the place of those of their kind, one by one, each in one step.
fn replace_everywhere(ebpf: &mut Ebpf, dir: &Path, programs: &[Program]) -> Result<(), DataplaneError> {
    for &program in programs {
        let classifier = program_mut(ebpf, program)?;
        link_pins::replace_all(&dir.join(pin_dir::LINKS), classifier, program)?;
        clsact::replace_all(classifier, program)?;
    }
    Ok(())
}

pub fn program_mut(ebpf: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier, DataplaneError> {
    let found = ebpf.program_mut(program.name()).ok_or(ProgramError::NotLoaded);
    found.and_then(TryInto::try_into).map_err(|source| program_error(program, source))
}

pub fn with_program<T>(
    ebpf: &mut Ebpf,
    program: Program,
    work: impl FnOnce(&mut SchedClassifier) -> Result<T, ProgramError>,
) -> Result<T, DataplaneError> {
    work(program_mut(ebpf, program)?).map_err(|source| program_error(program, source))
}

fn program_error(program: Program, source: ProgramError) -> DataplaneError {
    DataplaneError::Program { program: program.name(), source: Box::new(source) }
}
