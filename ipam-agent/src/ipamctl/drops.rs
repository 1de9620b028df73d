//! `ipamctl drops`.

use std::{io::Write as _, path::Path};

use anyhow::bail;

use super::{Output, agent, pod_id};
use crate::inspect::{Answer, Dropped, PodId, Question};

/// Which drops, and how to print them.
#[derive(Debug, clap::Args)]
pub struct DropsArgs {
    /// Only those of this pod.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = pod_id)]
    pod: Option<PodId>,
    /// Only those of this reason, such as unknown_source.
    #[arg(long, value_parser = reasons())]
    reason: Option<String>,
    /// How to print: lines of text, or of JSON.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

fn reasons() -> clap::builder::PossibleValuesParser {
    ipam_common::DropReason::ALL.map(|reason| reason.name()).into()
}

impl DropsArgs {
    fn wants(&self, dropped: &Dropped) -> bool {
        self.reason.as_ref().is_none_or(|reason| *reason == dropped.reason)
            && self.pod.as_ref().is_none_or(|pod| dropped.interface.pod.as_ref() == Some(pod))
    }
}

/// Follows drops until the reader of the output or the agent has gone.
///
/// # Errors
/// The agent does not answer, or ends.
pub async fn run(socket: &Path, args: &DropsArgs) -> anyhow::Result<()> {
    let mut asked = agent::ask(socket, &Question::Drops).await?;
    let mut out = std::io::stdout();
    while let Some(answer) = asked.next().await? {
        let line = match answer {
            Answer::Following => {
                eprintln!("following samples of dropped packets; end with Ctrl-C");
                continue;
            }
            Answer::Dropped(dropped) if !args.wants(&dropped) => continue,
            Answer::Dropped(dropped) if args.output == Output::Json => serde_json::to_string(&dropped)?,
            Answer::Dropped(dropped) => dropped.to_string(),
            Answer::Lost(count) if args.output == Output::Json => format!("{{\"lost\":{count}}}"),
            Answer::Lost(count) => format!("… {count} samples lost: this reader is too slow"),
            Answer::Pod(_) | Answer::Failed(_) => bail!("the agent answers another question"),
        };
        // `ipamctl drops | head` ends here.
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
    }
    bail!("the node agent has ended")
}
