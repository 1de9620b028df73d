//! `cargo xtask kernels`: the programs and the tests in the kernels that users run, each booted under QEMU.

mod archive;
mod boot;
mod budget;
mod fetch;
mod lack;
mod modules;
mod plan;
mod report;
mod transcript;
mod userland;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use self::archive::Tree;
use self::boot::Machine;
use self::budget::Budget;
use self::fetch::Mirror;
use self::lack::Lack;
use self::plan::{RUNS, Run};
use self::report::Result as KernelResult;
use self::transcript::Transcript;
use crate::binaries::cargo_build;
use crate::setup::{self, Scope};
use crate::workspace;

/// Which of Debian's archives has a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Archive {
    Main,
    Security,
}

/// A kernel, by the release of Debian that has it.
#[derive(Debug)]
struct Kernel {
    name: &'static str,
    archive: Archive,
    suite: &'static str,
    lacks: &'static [Lack],
}

/// From old to new.
const KERNELS: [Kernel; 4] = [
    Kernel {
        name: "5.10",
        archive: Archive::Security,
        suite: "bullseye-security",
        lacks: &[Lack::Tcx, Lack::Guards],
    },
    Kernel { name: "6.1", archive: Archive::Main, suite: "bookworm", lacks: &[Lack::Tcx, Lack::Guards] },
    Kernel { name: "6.12", archive: Archive::Main, suite: "trixie", lacks: &[Lack::Guards] },
    Kernel { name: "newest", archive: Archive::Main, suite: "sid", lacks: &[] },
];

/// The machine's time beside the tests': booting, loading.
const OVERHEAD: Duration = Duration::from_secs(120);
/// The recorded figures of the verifier.
const BUDGET: &str = "tests/verifier-budget.toml";
/// All that a machine's tests said, in its kernel's folder.
const TRANSCRIPT: &str = "tests.log";
/// Likewise of a run of some groups, whose names follow: each counts instead of the same group of the whole run before.
const PARTIAL: &str = "tests-of-";
/// Likewise of a run of chosen tests, which counts for nothing.
const CHOSEN: &str = "chosen.log";
/// The page of results.
const PAGE: &str = "docs/kernels.md";

/// What to run.
#[derive(clap::Args)]
pub struct Args {
    /// Kernels, by name (5.10, 6.1, 6.12, newest); all when none is named. The page is written only for all
    #[arg(value_parser = KERNELS.map(|kernel| kernel.name))]
    what: Vec<String>,
    /// Only these groups of the plan; the page is not written then
    #[arg(long)]
    only: Vec<String>,
    /// Only tests whose name contains this; the page is not written then
    #[arg(long)]
    filter: Option<String>,
    /// Record the verifier's figures as the budget
    #[arg(long)]
    update: bool,
    /// Address of a Debian mirror, up to /debian; the one of this machine's apt if not given
    #[arg(long)]
    mirror: Option<String>,
    /// Machines at the same time
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    jobs: u8,
    /// Factor for the tests' waits: an emulated CPU is slow
    #[arg(long, default_value_t = 10)]
    patience: u32,
    /// Boot nothing: take what each kernel said last, of the groups that ran again since then what they said
    #[arg(long)]
    from_last: bool,
    /// Build nothing: boot what was built last
    #[arg(long)]
    as_built: bool,
    /// Print all that the machines say
    #[arg(long)]
    verbose: bool,
}

/// Boots the kernels, runs the plan in each, compares the verifier's figures and writes the page.
///
/// # Errors
/// Something cannot be installed, fetched or built.
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(
        std::env::consts::ARCH == "x86_64",
        "the kernels are those of x86-64, and so must this machine be"
    );
    setup::ensure(Scope::Kernels)?;
    let chosen: Vec<&Kernel> = KERNELS
        .iter()
        .filter(|it| args.what.is_empty() || args.what.iter().any(|name| name == it.name))
        .collect();
    let runs: Vec<Run> = RUNS
        .iter()
        .filter(|it| args.only.is_empty() || args.only.iter().any(|name| name == it.group))
        .copied()
        .collect();
    ensure!(
        !runs.is_empty(),
        "the plan has only the groups {:?}",
        RUNS.iter().map(|it| it.group).collect::<Vec<_>>()
    );
    let folder = workspace().join("target/kernels");
    let mut results = if args.from_last {
        chosen.iter().map(|kernel| last(kernel, &folder.join(kernel.name))).collect::<Result<Vec<_>>>()?
    } else {
        boot_all(args, &chosen, &runs, &folder)?
    };
    let path = workspace().join(BUDGET);
    let mut budget = Budget::read(&path)?;
    for result in &mut results {
        if args.update {
            budget.record(result.name, &result.transcript.programs);
        }
        result.over_budget = budget.faults(result.name, &result.transcript.programs);
    }
    if args.update {
        budget.write(&path)?;
    }
    let page = report::page(&results, &budget);
    println!("\n{page}");
    if args.what.is_empty() && args.only.is_empty() && args.filter.is_none() {
        fs::write(workspace().join(PAGE), &page).context(PAGE)?;
        println!("written to {PAGE}");
    }
    let good = results.iter().all(KernelResult::good);
    println!("{} of {} kernels are good", results.iter().filter(|it| it.good()).count(), results.len());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn boot_all(args: &Args, chosen: &[&Kernel], runs: &[Run], folder: &Path) -> Result<Vec<KernelResult>> {
    let mirror = Mirror::find(args.mirror.as_deref())?;
    fs::create_dir_all(folder)?;
    let base = folder.join("base.cpio");
    if !args.as_built {
        build_base(runs, args.patience, folder).and_then(|tree| tree.write(&base))?;
    }
    let said = match (&args.filter, args.only.is_empty()) {
        (Some(_), _) => CHOSEN.to_owned(),
        (None, false) => format!("{PARTIAL}{}.log", args.only.join("-")),
        (None, true) => TRANSCRIPT.to_owned(),
    };
    let mut results = Vec::new();
    for kernels in chosen.chunks(args.jobs.into()) {
        let prepared = kernels.iter().map(|kernel| {
            let plan = plan::lines(runs, kernel.lacks, args.filter.as_deref());
            prepare(kernel, &mirror, &base, plan, &folder.join(kernel.name))
        });
        let prepared = prepared.collect::<Result<Vec<_>>>()?;
        let output = Mutex::new(());
        let ran: Vec<Result<KernelResult>> = thread::scope(|scope| {
            let boot = |it| scope.spawn(|| boot(it, runs, &said, args.verbose, &output));
            let machines: Vec<_> = prepared.into_iter().map(boot).collect();
            machines.into_iter().map(|it| it.join().expect("it does not panic")).collect()
        });
        for result in ran {
            results.push(result?);
        }
    }
    Ok(results)
}

/// What a kernel said when it ran last.
fn last(kernel: &Kernel, folder: &Path) -> Result<KernelResult> {
    let path = folder.join(TRANSCRIPT);
    let what = || format!("{}: kernel {} has not run here yet", path.display(), kernel.name);
    let version = fetch::last_version(folder).with_context(what)?;
    let mut transcript = Transcript::read(&fs::read(&path).with_context(what)?);
    for path in partial(folder)? {
        transcript.replace(Transcript::read(&fs::read(&path)?));
    }
    let Kernel { name, suite, .. } = *kernel;
    Ok(KernelResult { name, suite, version, transcript, over_budget: Vec::new() })
}

/// What the runs of some groups said since the last whole run, from old to new.
fn partial(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            found.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The tests and all that they need, but the modules.
fn build_base(runs: &[Run], patience: u32, folder: &Path) -> Result<Tree> {
    let mut arguments = vec!["--package", "ipam-agent", "--package", "ipam-cni", "--package", "ipam-lab"];
    arguments.extend(["--bins", "--features", "ipam-agent/failpoints"]);
    for run in runs {
        arguments.extend(["--test", run.program]);
    }
    let built = cargo_build(&arguments)?;
    let slim = folder.join("bin");
    fs::create_dir_all(&slim)?;
    userland::tree(&built, runs, patience, &slim)
}

/// A kernel that is ready to boot.
struct Prepared {
    name: &'static str,
    suite: &'static str,
    kernel: fetch::Unpacked,
    archive: PathBuf,
    folder: PathBuf,
}

fn prepare(kernel: &Kernel, mirror: &Mirror, base: &Path, plan: String, folder: &Path) -> Result<Prepared> {
    let unpacked = fetch::fetch(kernel, mirror, folder).with_context(|| format!("kernel {}", kernel.name))?;
    let modules = modules::stage(&unpacked, folder).with_context(|| format!("kernel {}", kernel.name))?;
    let mut tree = Tree::default();
    // `/lib` is a link to it.
    tree.copy_all(Path::new("/usr/lib/modules"), &modules.join("lib/modules"))?;
    tree.text("/lab/plan", plan);
    let part = folder.join("modules.cpio");
    tree.write(&part)?;
    // The kernel unpacks one archive after another.
    let archive = folder.join("initrd.cpio");
    let mut out = File::create(&archive)?;
    for part in [base, &part] {
        io::copy(&mut File::open(part)?, &mut out)?;
    }
    println!("{}: Linux {} of {}", kernel.name, unpacked.release, kernel.suite);
    let folder = folder.to_owned();
    Ok(Prepared { name: kernel.name, suite: kernel.suite, kernel: unpacked, archive, folder })
}

fn boot(
    prepared: Prepared,
    runs: &[Run],
    said: &str,
    verbose: bool,
    output: &Mutex<()>,
) -> Result<KernelResult> {
    let Prepared { name, suite, kernel, archive, folder } = prepared;
    let limit = runs.iter().map(|run| Duration::from_secs(run.limit.into())).sum::<Duration>() + OVERHEAD;
    if said == TRANSCRIPT {
        partial(&folder)?.iter().try_for_each(fs::remove_file)?;
    }
    let (console, said) = (folder.join("console.log"), folder.join(said));
    let machine =
        Machine { image: &kernel.image, archive: &archive, console: &console, transcript: &said, limit };
    let mut transcript = Transcript::default();
    let start = Instant::now();
    machine.run(|time, line| {
        transcript.line(line);
        let telling = ["@@ ", "test result: "].iter().any(|prefix| line.starts_with(prefix));
        if verbose || telling || line.ends_with(" ... FAILED") {
            let _one_line = output.lock();
            println!("{name} {:6.1} s  {line}", time.as_secs_f64());
        }
    })?;
    transcript.end();
    println!("{name}: {:.0} s; {} and {}", start.elapsed().as_secs_f64(), said.display(), console.display());
    Ok(KernelResult { name, suite, version: kernel.version, transcript, over_budget: Vec::new() })
}
