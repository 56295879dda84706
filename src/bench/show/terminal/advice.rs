//! What to choose over each link, and the commands that choose it.

use serde_json::Value;

use crate::advice::Goal;
use crate::bench::judge::commands;
use crate::bench::report::{BenchReport, LinkReport, QemuCommands, Recommendation};
use crate::grid::wrapped;

/// What a goal asks for.
pub fn goal_words(goal: Goal) -> &'static str {
    match goal {
        Goal::Time => "shortest time",
        Goal::Bytes => "fewest bytes",
        Goal::Cpu => "least CPU time",
        Goal::Downtime => "shortest downtime",
    }
}

/// The best setting over each link, and why.
pub(super) fn recommendations(report: &BenchReport, width: Option<usize>) -> String {
    if report.links.is_empty() {
        return String::new();
    }
    let goal = report.plan.goal;
    let mut text = format!("Recommended settings (goal: {})\n", goal_words(goal));
    for link in &report.links {
        let computed = if link.measured { "" } else { " (computed)" };
        let chosen = &link.recommended;
        text.push_str(&format!(
            "{}{computed}: {}, {}\n",
            link.link, chosen.setting, chosen.reason
        ));
        let others = other_goals(link, goal);
        if link.measured && !others.is_empty() {
            text.push_str(&format!("    {}\n", others.join("; ")));
        }
    }
    let computed: Vec<&str> = (report.links.iter())
        .filter(|link| !link.measured)
        .map(|link| &link.link[..])
        .collect();
    if !computed.is_empty() {
        text.push_str(&format!(
            "(computed from the runs without a limit; --links {} measures them)\n",
            computed.join(",")
        ));
    }
    wrapped(&text, width)
}

/// The settings that are best for other goals. The tolerance is named, because the table may show a
/// setting that is better by less than that.
fn other_goals(link: &LinkReport, goal: Goal) -> Vec<String> {
    let percent = link.best_tolerance * 100.0;
    let others = Goal::ALL.into_iter().filter(|other| *other != goal);
    others
        .filter_map(|other| Some((other, link.best.get(other.name())?)))
        .filter(|(_, name)| **name != link.recommended.setting)
        .map(|(other, name)| format!("{} (within {percent:.0} %): {name}", goal_words(other)))
        .collect()
}

/// The commands that choose one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkCommands {
    /// The links, and the setting that is best over them.
    pub chosen: String,
    /// Each way to choose it.
    pub blocks: Vec<CommandBlock>,
}

/// Commands that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandBlock {
    /// What they are for.
    pub words: String,
    /// One command each; none where there is nothing to do.
    pub lines: Vec<String>,
}

/// The commands for what is best over each link. Links over which the same setting is best share its
/// commands.
pub fn commands_by_link(report: &BenchReport) -> Vec<LinkCommands> {
    let mut groups: Vec<(Vec<&str>, &Recommendation)> = Vec::new();
    for link in &report.links {
        let same = groups
            .iter_mut()
            .find(|(_, chosen)| chosen.setting == link.recommended.setting);
        match same {
            Some((links, _)) => links.push(&link.link),
            None => groups.push((vec![&link.link], &link.recommended)),
        }
    }
    let commands = groups.into_iter().map(|(links, chosen)| {
        let ours = CommandBlock {
            words: "ramferry, at the destination and at the source:".to_owned(),
            lines: vec![chosen.receive.clone(), chosen.send.clone()],
        };
        LinkCommands {
            chosen: format!("{}: {}", links.join(", "), chosen.setting),
            blocks: std::iter::once(ours).chain(for_qemu(chosen)).collect(),
        }
    });
    commands.collect()
}

/// How to set up a QEMU.
fn for_qemu(chosen: &Recommendation) -> Vec<CommandBlock> {
    // The method, with its level if it has several.
    let method = chosen.setting.split(',').next().unwrap_or_default();
    let (Some(setting), Some(virsh)) = (&chosen.qemu_setting, &chosen.virsh) else {
        return vec![CommandBlock {
            words: format!(
                "QEMU does not support {method}: measure zlib, zstd or none for its commands."
            ),
            lines: Vec::new(),
        }];
    };
    let lines = |virsh: &str, qmp: &[Value]| {
        let qmp = qmp.iter().map(commands::line);
        std::iter::once(virsh.to_owned()).chain(qmp).collect()
    };
    let mut words = String::new();
    if *setting != chosen.setting {
        words = format!(
            "QEMU does not support {method}; the best measured setting that it supports is \
             {setting}. "
        );
    }
    words.push_str(if chosen.qmp.is_empty() {
        "QEMU needs no setting:"
    } else if !virsh.contains("--parallel") || !virsh.contains("--comp-methods") {
        "QEMU, by libvirt, or by QMP at both ends:"
    } else if virsh.ends_with("-level 1") {
        "QEMU with multifd, by libvirt 9.4 or newer, or by QMP at both ends:"
    } else {
        "QEMU with multifd, by libvirt 9.4 or newer, or by QMP at both ends (QEMU 7.2 takes the level \
         only as -global migration.NAME=LEVEL):"
    });
    let mut blocks = vec![CommandBlock {
        words,
        lines: lines(virsh, &chosen.qmp),
    }];
    blocks.extend(
        chosen
            .qemu_compress
            .as_ref()
            .map(|older: &QemuCommands| CommandBlock {
                words: "QEMU up to 9.0 with its capability compress, which 9.1 removed:".to_owned(),
                lines: lines(&older.virsh, &older.qmp),
            }),
    );
    blocks
}

/// All commands, to be copied from a terminal: long ones continue after a backslash, but JSON is left
/// on one line.
pub(super) fn commands(report: &BenchReport, width: Option<usize>) -> String {
    let mut text = String::new();
    for (at, link) in commands_by_link(report).into_iter().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        text.push_str(&wrapped(&format!("Commands for {}\n", link.chosen), width));
        for block in link.blocks {
            text.push_str(&wrapped(&format!("{}\n", block.words), width));
            for line in block.lines {
                text.push_str(&format!("  {}\n", continued(&line, width)));
            }
        }
    }
    text
}

/// A command that is too long for a line, broken before its options.
fn continued(line: &str, width: Option<usize>) -> String {
    const INDENT: usize = 2;
    let width = width.unwrap_or(usize::MAX);
    if line.starts_with('{') || line.chars().count() + INDENT <= width {
        return line.to_owned();
    }
    let mut text = String::new();
    let mut used = INDENT;
    for (at, part) in line.split(" --").enumerate() {
        let part = if at == 0 {
            part.to_owned()
        } else {
            format!(" --{part}")
        };
        let len = part.chars().count();
        // Room for the backslash, too.
        if at > 0 && used + len + 2 > width {
            text.push_str(" \\\n     ");
            used = INDENT + 3;
        }
        text.push_str(&part);
        used += len;
    }
    text
}
