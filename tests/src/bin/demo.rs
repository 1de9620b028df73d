//! The demo: the lab's story of two nodes, each step checked before it is told.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use ipam_lab::caller::Door;
use ipam_lab::lab::scope;
use ipam_lab::story::{self, Told};

/// Two nodes, an ENI pool, pods with static addresses: told in steps, each checked before it is told.
#[derive(Parser)]
struct Args {
    /// Leave the lab standing, and print how to look around.
    #[arg(long)]
    keep: bool,
    /// Print one JSON document instead of the story.
    #[arg(long)]
    json: bool,
    /// Remove the labs that --keep left standing, and do nothing else.
    #[arg(long)]
    clean: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if args.clean {
        for prefix in scope::kept() {
            scope::remove(&prefix);
            println!("removed {prefix}");
        }
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    let progress = std::io::stderr().is_terminal() && !args.json;
    let outcome = story::tell(Door::Tencent, "demo", |title, told| match told {
        None if progress => eprint!("  …  {title}\r"),
        Some(told) if !args.json => print(told),
        _ => {}
    })
    .await;
    let (stage, steps) = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("the stage could not be built: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let ok = steps.iter().all(|step| step.ok);
    let seconds = start.elapsed().as_secs_f64();
    if args.json {
        println!("{}", serde_json::json!({ "ok": ok, "seconds": seconds, "steps": steps }));
    } else {
        let held = steps.iter().filter(|step| step.ok).count();
        println!("\n{held} of {} steps held, {seconds:.1} s", steps.len());
        if !ok {
            println!("logs:\n{}", stage.logs());
        }
    }
    if args.keep {
        stage.cluster.lab.keep();
        eprintln!("\n{}", stage.how_to_look_around());
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(told: &Told) {
    println!("{} {} ({:.1} s)", if told.ok { "[ok]  " } else { "[FAIL]" }, told.title, told.seconds);
    for line in &told.lines {
        println!("         {line}");
    }
}
