//! Thousands of small migrations by the real program, each with settings, a writer and faults drawn
//! from a seed, and each checked against what is promised: see docs/reliability.md.
//!
//! ```sh
//! cargo run --release --example chaos -- --runs 2000
//! ```
//!
//! Run number N of a campaign with the seed S has the seed S + N, and `--seed S --runs 1` repeats the
//! run of a seed: the same plan, as near in time as the machine allows. The folder of a run in which
//! something is wrong is kept.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use clap::Parser;
use rustix::process::{Signal, getpid, set_child_subreaper, set_parent_process_death_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

mod actor;
mod check;
mod child;
mod dice;
mod monitored;
mod one;
mod plan;
mod relay;
mod report;
mod run;
mod scene;

use check::Category;
use one::Record;
use plan::Plan;
use report::Report;
use scene::Stage;

/// Run randomised migrations with faults, and check what each leaves.
#[derive(Debug, Parser)]
struct Args {
    /// Number of runs
    #[arg(long, default_value_t = 2000)]
    runs: u64,
    /// Seed of the first run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of runs at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Only runs of a kind, such as live, qemu, tcp, "kill source" or "flipped bit"
    #[arg(long, value_name = "KIND")]
    only: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// The program [default: the one that was built with this]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Where the runs have their folders
    #[arg(long, value_name = "FOLDER", default_value = "/dev/shm")]
    folder: PathBuf,
    /// Keep the folders of all runs
    #[arg(long)]
    keep: bool,
    /// Carry out the runs whose seeds come on standard input, in this folder
    #[arg(long, hide = true)]
    worker: Option<PathBuf>,
}

fn main() -> ExitCode {
    // Under this name it is the program: both are built from the same library, at the same time.
    let name = std::env::args_os().next().map(PathBuf::from);
    if name.is_some_and(|name| name.ends_with("ramferry")) {
        return ramferry::cli::run();
    }
    let args = Args::parse();
    let outcome = match &args.worker {
        Some(root) => work(root, args.keep).map(|()| true),
        None => campaign(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: the campaign cannot go on: {error}");
            ExitCode::from(2)
        }
    }
}

/// `false`: something was wrong.
fn campaign(args: &Args) -> io::Result<bool> {
    let root = args.folder.join(format!("chaos-{}", std::process::id()));
    let program = match &args.program {
        Some(program) => program.canonicalize()?,
        None => std::env::current_exe()?,
    };
    Stage::prepare(&root, &program)?;
    // What runs ends by itself; a process that is ended here would leave others.
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let seeds = Seeds {
        interrupted,
        next: AtomicU64::new(args.seed),
        left: Mutex::new(args.runs),
        only: args.only.clone(),
    };
    let report = Mutex::new(Report::default());
    thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                let mut worker = None;
                while let Some(seed) = seeds.next() {
                    let record = dispatch(&mut worker, seed, &root, args.keep);
                    for (category, what) in &record.problems {
                        eprintln!("seed {seed}: {category:?}: {what}");
                    }
                    let mut report = report.lock().expect("a report is counted without panics");
                    report.add(record);
                    if report.runs.is_multiple_of(100) {
                        eprintln!("{} runs, {} failed", report.runs, report.failed.len());
                    }
                }
            });
        }
    });
    let report = report
        .into_inner()
        .expect("a report is counted without panics");
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{report}"),
    }
    if report.failed.is_empty() && !args.keep {
        std::fs::remove_dir_all(&root)?;
    } else {
        eprintln!("folders are kept in {}", root.display());
    }
    Ok(report.failed.is_empty())
}

/// The seeds of the runs that are still to be carried out.
struct Seeds {
    interrupted: Arc<AtomicBool>,
    next: AtomicU64,
    left: Mutex<u64>,
    only: Option<String>,
}

impl Seeds {
    fn next(&self) -> Option<u64> {
        let mut left = self.left.lock().ok()?;
        *left = left.checked_sub(1)?;
        if self.interrupted.load(Ordering::Relaxed) {
            return None;
        }
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            let fits = |only: &String| Plan::new(seed).labels().contains(&only.as_str());
            if self.only.as_ref().is_none_or(fits) {
                return Some(seed);
            }
        }
    }
}

/// A process that carries out runs: the orphans of a run come to it, and mounts are its own.
struct Worker {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Worker {
    fn start(root: &Path, keep: bool) -> io::Result<Worker> {
        let program = std::env::current_exe()?;
        let alone = ["--mount", "--propagation", "private"];
        let may_mount = Command::new("unshare")
            .args(alone)
            .arg("true")
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        let mut command = match may_mount {
            true => Command::new("unshare"),
            false => Command::new(&program),
        };
        if may_mount {
            command.args(alone).arg(&program);
        }
        // Ctrl-C is for the campaign alone.
        command.process_group(0);
        let mut child = command
            .arg("--worker")
            .arg(root)
            .args(keep.then_some("--keep"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Worker {
            child,
            answers: BufReader::new(stdout),
        })
    }

    fn run(&mut self, seed: u64) -> io::Result<Record> {
        let stdin = self.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(stdin, "{seed}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

fn dispatch(worker: &mut Option<Worker>, seed: u64, root: &Path, keep: bool) -> Record {
    let outcome = (|| {
        let mut own = match worker.take() {
            Some(worker) => worker,
            None => Worker::start(root, keep)?,
        };
        let record = own.run(seed)?;
        *worker = Some(own);
        Ok(record)
    })();
    outcome.unwrap_or_else(|error: io::Error| Record {
        seed,
        labels: Vec::new(),
        ends: Default::default(),
        fired: Vec::new(),
        problems: vec![(Category::Campaign, format!("the worker failed: {error}"))],
        nowhere: false,
        unseen: false,
        milliseconds: 0,
    })
}

fn work(root: &Path, keep: bool) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_child_subreaper(Some(getpid()))?;
    let stage = Stage::new(root);
    for line in io::stdin().lines() {
        let seed = line?.parse().map_err(io::Error::other)?;
        let record = one::run(&stage, seed, keep);
        println!("{}", serde_json::to_string(&record)?);
    }
    Ok(())
}
