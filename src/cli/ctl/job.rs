//! `ctl domjobinfo`: a migration at one moment, or until it is over.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};

use crate::cli::output::print_while_read;
use crate::cli::params::Checked;
use crate::control::job_info::{JobInfo, JobType};
use crate::error::{Error, Kind, Result};
use crate::grid::terminal_size;
use crate::qmp::{Client, ClientError};

use super::senseless;

/// How long a job may be over before that is noticed without an event. The monitor of a program that
/// does one migration stays for a second longer.
const GLANCE: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(super) struct JobArgs {
    /// Print libvirt's keys and plain numbers
    #[arg(long)]
    rawstats: bool,
    /// Repeat until the job is over: in place on a terminal, otherwise in blocks separated by empty
    /// lines. Exit code 0 if it completed, 1 if it failed or was cancelled
    #[arg(long)]
    watch: bool,
    /// Interval between reports
    #[arg(
        long,
        value_name = "TIME",
        requires = "watch",
        default_value = "1",
        value_parser = Checked(super::time_limit)
    )]
    interval: Duration,
    /// Print one JSON object with the keys of --rawstats; with --watch, one a line
    #[arg(long, conflicts_with = "rawstats")]
    json: bool,
}

impl JobArgs {
    pub(super) fn run(&self, client: &mut Client) -> Result<()> {
        if self.watch {
            return self.watch(client);
        }
        let info = look(client)?;
        super::print(&self.text(&info, false)?)
    }

    /// `in_place`: the last lines may not be seen.
    fn text(&self, info: &JobInfo, in_place: bool) -> Result<String> {
        let job = info.job_type();
        if self.json {
            let mut object = Map::new();
            object.insert("job_type".to_owned(), (job as u8).into());
            let raw = info.raw().into_iter();
            object.extend(raw.map(|(key, value)| (key.to_owned(), value)));
            let text = match self.watch {
                true => serde_json::to_string(&object),
                false => serde_json::to_string_pretty(&object),
            };
            return text
                .map(|text| text + "\n")
                .map_err(|error| Error::new(Kind::Failed, error));
        }
        if !self.rawstats {
            return Ok(match in_place {
                true => format!("{info:#}"),
                false => info.to_string(),
            });
        }
        let mut text = format!("Job type: {}\n\n", job as u8);
        for (key, value) in info.raw() {
            let value = match value {
                Value::Bool(yes) => if yes { "yes" } else { "no" }.to_owned(),
                Value::String(word) => word,
                number => number.to_string(),
            };
            text.push_str(&format!("{key}: {value}\n"));
        }
        Ok(text)
    }

    fn watch(&self, client: &mut Client) -> Result<()> {
        let mut screen = Screen::new(!self.json);
        let mut events = JobEvents::default();
        let mut before: Option<(JobInfo, Instant)> = None;
        loop {
            let mut info = match events.look(client)? {
                Some(info) => info,
                // It ended, and its monitor with it.
                None => return events.conclude(),
            };
            let now = Instant::now();
            let job = info.job_type();
            if let Some((earlier, then)) = &before
                && job == JobType::Unbounded
            {
                let time = now.duration_since(*then);
                if time < self.interval {
                    events.wait(client, now + GLANCE.min(self.interval - time))?;
                    continue;
                }
                info = info.since(earlier, time);
            }
            let last = job != JobType::Unbounded;
            let text = self.text(&info, screen.is_in_place() && !last)?;
            if !screen.show(&text, last)? {
                return Ok(());
            }
            match job {
                JobType::Completed => return Ok(()),
                JobType::None => return Err(Error::new(Kind::Failed, "there is no job to watch")),
                JobType::Failed => return Err(failed(info.error())),
                JobType::Cancelled => return Err(cancelled()),
                JobType::Unbounded => {}
            }
            before = Some((info, now));
            events.wait(client, now + GLANCE.min(self.interval))?;
        }
    }
}

fn failed(why: Option<&str>) -> Error {
    let text = match why {
        Some(why) => format!("the migration failed: {why}"),
        None => "the migration failed".to_owned(),
    };
    Error::new(Kind::Failed, text)
}

fn cancelled() -> Error {
    Error::new(Kind::Failed, "the migration was cancelled")
}

/// The job as it is now.
fn look(client: &mut Client) -> Result<JobInfo> {
    let reply = query(client, "query-migrate")?;
    if !reply.is_object() {
        return Err(senseless(client, "query-migrate"));
    }
    if !JobInfo::lacks_side(&reply) {
        return Ok(JobInfo::new(&reply, None));
    }
    // A monitor without events may lack this command too; it is worth a try.
    let state = match client.execute("query-status", &Value::Null) {
        Err(ClientError::Declined { .. }) => Value::Null,
        other => other?,
    };
    Ok(JobInfo::new(&reply, state["status"].as_str()))
}

fn query(client: &mut Client, command: &str) -> Result<Value, ClientError> {
    client.execute(command, &Value::Null)
}

/// What events said about the job, and whether its monitor is still there.
#[derive(Default)]
struct JobEvents {
    /// How it ended, if it did.
    end: Option<JobType>,
    /// Whether waiting was cut short for that. Once is enough, whatever events come.
    woken: bool,
    gone: bool,
}

impl JobEvents {
    fn hear(&mut self, status: Option<&str>) {
        let job = status.map(JobType::of_status);
        // Another one may have begun since.
        if let Some(job) = job {
            self.end = Some(job).filter(|job| job.is_over());
        }
    }

    /// `None`: the job has ended and the monitor is gone with it, as that of a program that does one
    /// migration.
    fn look(&mut self, client: &mut Client) -> Result<Option<JobInfo>> {
        if self.gone {
            return Ok(None);
        }
        let looked = look(client);
        while let Some(event) = client.take_event() {
            self.hear(event.migration_status());
        }
        match looked {
            Err(error) if is_hang_up(error.cause()) => self.left(&error).map(|()| None),
            other => other.map(Some),
        }
    }

    /// Waits until `deadline`, or until an event says that the job is over.
    fn wait(&mut self, client: &mut Client, deadline: Instant) -> Result<()> {
        loop {
            match client.wait_event(deadline) {
                Ok(Some(event)) => self.hear(event.migration_status()),
                Ok(None) => return Ok(()),
                Err(error) if is_hang_up(Some(&error)) => {
                    self.gone = true;
                    return self.left(&error.into());
                }
                Err(error) => return Err(error.into()),
            }
            if self.end.is_some() && !self.woken {
                self.woken = true;
                return Ok(());
            }
        }
    }

    /// The monitor is gone; that is an error unless the job has ended.
    fn left(&self, error: &Error) -> Result<()> {
        if self.end.is_some() {
            return Ok(());
        }
        let text = format!("how the job ended is not known: {}", error.one_line());
        Err(Error::new(Kind::Failed, text))
    }

    fn conclude(&self) -> Result<()> {
        match self.end {
            Some(JobType::Failed) => Err(failed(None)),
            Some(JobType::Cancelled) => Err(cancelled()),
            _ => Ok(()),
        }
    }
}

fn is_hang_up(error: Option<&ClientError>) -> bool {
    matches!(
        error,
        Some(ClientError::HungUp { .. } | ClientError::Broken { .. })
    )
}

/// Where a job is shown while it is watched.
struct Screen {
    view: Option<ProgressBar>,
    first: bool,
    /// Whether blocks are separated by an empty line.
    blocks: bool,
}

impl Screen {
    fn new(blocks: bool) -> Screen {
        let terminal = blocks && std::io::stdout().is_terminal();
        let view = terminal.then(|| {
            let view = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                view.set_style(style);
            }
            view
        });
        Screen {
            view,
            first: true,
            blocks,
        }
    }

    fn is_in_place(&self) -> bool {
        self.view.is_some()
    }

    /// Shows a block, which stays if it is the last one. Returns whether there is still a reader.
    fn show(&mut self, text: &str, last: bool) -> Result<bool> {
        if let Some(view) = &self.view {
            if !last {
                // What is longer than the terminal would scroll instead of being drawn in place.
                let height = terminal_size(std::io::stdout()).map_or(usize::MAX, |(_, rows)| rows);
                let lines: Vec<&str> = text.lines().take(height.saturating_sub(1)).collect();
                view.set_message(lines.join("\n"));
                return Ok(true);
            }
            view.finish_and_clear();
        } else if !self.first && self.blocks {
            return print_while_read(&format!("\n{text}"));
        }
        self.first = false;
        print_while_read(text)
    }
}
