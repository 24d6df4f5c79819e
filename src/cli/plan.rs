//! `valkeeper plan`: look, and say what would be done.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use super::client::SocketArgs;
use super::exit::Exit;
use super::load;
use super::{SourceArgs, live_file, out, saved};
use crate::model::plan::{HeldReason, Plan};
use crate::plan::show::{self, View};
use crate::reconcile::{self, Look};
use crate::roots;

#[derive(Debug, Args)]
#[command(
    after_help = "Exits with 0 when all is as declared, 2 when there are changes, made or held, 4 when some nodes or servers could not be seen, 1 on an error."
)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Print the plan as JSON
    #[arg(long, conflicts_with = "markdown")]
    pub json: bool,
    /// Print the plan as Markdown, for a pull request
    #[arg(long)]
    pub markdown: bool,
    /// Save the plan, so that `valkeeper apply FILE` does this and nothing else
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Plan another branch of the repository that a daemon on this host follows, against the nodes as they are
    #[arg(long = "ref", value_name = "BRANCH", conflicts_with_all = ["out", "live", "markdown"])]
    pub reference: Option<String>,
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Plan offline, from what `valkeeper observe` printed
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    pub live: Option<PathBuf>,
}

pub(crate) async fn plan(args: PlanArgs) -> anyhow::Result<Exit> {
    if let Some(branch) = &args.reference {
        let text = args.socket.plan(branch, args.json).await?;
        out::print(if args.json { text.clone() } else { out::printable_lines(&text) })?;
        return Ok(exit_of_shown(&text));
    }
    let Some(loaded) = load::load(&args.source)? else { return Ok(Exit::Error) };
    let look = match &args.live {
        Some(file) => {
            let text = roots::read_ours(file)?;
            let live = live_file::parse(&text).with_context(|| format!("{}", file.display()))?;
            let plan = crate::plan::plan(&loaded.desired, &live);
            Look { live, plan }
        }
        None => reconcile::look(&loaded.desired, &load::fleet(&loaded, &args.source)?).await,
    };
    if load::refused(&loaded, &look.plan) {
        return Ok(Exit::Error);
    }
    let rest = crate::plan::rest(&loaded.desired, &look.live, &look.plan);
    print(&args, &View { desired: &loaded.desired, live: &look.live, plan: &look.plan, rest: &rest })?;
    if let Some(file) = &args.out {
        saved::save(file, &args.source, &loaded.desired, &look.plan, &rest)?;
    }
    Ok(exit(&look.plan))
}

fn print(args: &PlanArgs, view: &View<'_>) -> anyhow::Result<()> {
    if args.json {
        out::print(format_args!("{:#}\n", show::json(view)))?;
    } else if args.markdown {
        out::print(out::printable_lines(&show::markdown(view)))?;
    } else {
        out::print(super::progress::coloured(&args.source.with_options(&show::text(view), &view.plan.revision)))?;
    }
    Ok(())
}

fn exit(plan: &Plan) -> Exit {
    if unseen(plan) {
        Exit::Unseen
    } else if plan.steps.is_empty() && plan.held.is_empty() {
        Exit::Ok
    } else {
        // Also what a guard holds is not as declared, though it counts as settled.
        Exit::Changes
    }
}

/// The end of a plan that the daemon made, of which only what is shown is known: as JSON, or as text with its last line.
fn exit_of_shown(text: &str) -> Exit {
    if let Ok(plan) = serde_json::from_str::<Value>(text) {
        let empty = |field: &str| plan.get(field).is_none_or(|found| *found == json!([]) || *found == json!({}));
        return match (empty("unseen"), empty("steps") && empty("held")) {
            (false, _) => Exit::Unseen,
            (true, true) => Exit::Ok,
            (true, false) => Exit::Changes,
        };
    }
    match text.lines().last() {
        Some("No changes.") => Exit::Ok,
        Some(summary) if summary.contains(" unseen") => Exit::Unseen,
        Some(_) | None => Exit::Changes,
    }
}

/// Is there a node or a server that nothing could be learnt from?
pub(super) fn unseen(plan: &Plan) -> bool {
    !plan.unseen.is_empty() || plan.held.iter().any(|held| matches!(held.reason, HeldReason::NotAnswering { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_of_the_daemon_ends_as_one_of_ones_own() {
        let plan = |steps: &str, held: &str, unseen: &str| format!(r#"{{"steps":{steps},"held":{held},"unseen":{unseen}}}"#);
        assert_eq!(exit_of_shown(&plan("[]", "[]", "{}")), Exit::Ok);
        assert_eq!(exit_of_shown(&plan("[1]", "[]", "{}")), Exit::Changes);
        assert_eq!(exit_of_shown(&plan("[]", "[1]", "{}")), Exit::Changes);
        assert_eq!(exit_of_shown(&plan("[]", "[]", r#"{"n":"why"}"#)), Exit::Unseen);
        assert_eq!(exit_of_shown("No changes.\n"), Exit::Ok);
        assert_eq!(exit_of_shown("Plan: 0 to add, 1 to change, 0 to remove.\n"), Exit::Changes);
        assert_eq!(exit_of_shown("Plan: 0 to add, 0 to change, 0 to remove, 1 held, 1 node unseen.\n"), Exit::Unseen);
    }
}
