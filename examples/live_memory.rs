//! A toy VMM in one process that migrates its guest while the guest runs.
//!
//! What a VMM has to bring is all here: guest memory that is a file (a memfd, as most VMMs use), a
//! [`DirtyLog`] that is marked after each write, and a [`Writer`] that makes the virtual CPU stand
//! still for the last round. The receiver, which would be another process on another host, runs in
//! this one too, so that the outcome can be compared.
//!
//! ```text
//! cargo run --example live_memory
//! ```
//!
//! Without `--release`, hashing and encoding take many times as long, and so does the downtime.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ramferry::dirty::DirtyLog;
use ramferry::page::{PAGE_SIZE, PageIndex};
use ramferry::source::{Live, WriterChoice};
use ramferry::transport::Address;
use ramferry::writer::Writer;
use ramferry::{Error, Kind, Migration, Params};

/// 8 MiB of guest memory.
const PAGES: u64 = 2048;
/// What the guest goes on writing once it is up.
const WORKING_SET: u64 = 64;

/// What the virtual CPU is to do, and does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// It was asked to stop, and has not yet.
    Stopping,
    /// It writes nothing.
    Stopped,
    /// It is to end: somebody else runs the guest, or nobody.
    Ended,
}

/// The virtual CPU as seen by whoever controls it.
struct Cpu {
    state: Mutex<State>,
    changed: Condvar,
}

impl Cpu {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false`: it has ended, which is for good.
    fn set(&self, state: State) -> bool {
        let mut now = self.lock();
        if *now == State::Ended {
            return false;
        }
        *now = state;
        self.changed.notify_all();
        true
    }

    /// Called by the CPU between two instructions: `false` when it is to end.
    fn may_go_on(&self) -> bool {
        let mut state = self.lock();
        if *state == State::Stopping {
            *state = State::Stopped;
            self.changed.notify_all();
        }
        let state = (self.changed).wait_while(state, |state| *state == State::Stopped);
        *state.unwrap_or_else(PoisonError::into_inner) != State::Ended
    }

    /// The guest's program: fills its memory, then works on a small part of it.
    fn run(&self, memory: &File, log: &DirtyLog) -> std::io::Result<()> {
        for step in 0_u64.. {
            if !self.may_go_on() {
                break;
            }
            let page = match step {
                0..PAGES => step * 5 % PAGES,
                _ => step % WORKING_SET * 30,
            };
            // A VMM's guest stores through a mapping, which is the same memory.
            let offset = PageIndex(page).offset() + step % 500 * 8;
            memory.write_all_at(&(step + 1).to_le_bytes(), offset)?;
            // After the write: a page that is marked first may be sent before it is written.
            log.mark(0, PageIndex(page));
        }
        Ok(())
    }
}

/// The migration's grip on the CPU.
struct Control(Arc<Cpu>);

impl Writer for Control {
    fn stop(&mut self, limit: Duration) -> Result<(), Error> {
        self.0.set(State::Stopping);
        let stopping = |state: &mut State| *state == State::Stopping;
        let waited = (self.0.changed).wait_timeout_while(self.0.lock(), limit, stopping);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match *state {
            State::Stopped => Ok(()),
            State::Ended => Err(Error::new(Kind::Failed, "the CPU has ended")),
            State::Running | State::Stopping => {
                *state = State::Running;
                Err(Error::new(Kind::Failed, "the CPU did not stop in time"))
            }
        }
    }

    fn resume(&mut self) -> Result<(), Error> {
        if self.0.set(State::Running) {
            Ok(())
        } else {
            Err(Error::new(Kind::Failed, "the CPU has ended"))
        }
    }

    /// The receiver has the guest: here it must never run again.
    fn release(&mut self) {
        self.0.set(State::Ended);
    }

    fn throttle(&mut self, _percent: u8) -> Result<bool, Error> {
        Ok(false)
    }

    fn describe(&self) -> String {
        "the toy VMM's CPU".to_owned()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let memory = rustix::fs::memfd_create("guest-ram", rustix::fs::MemfdFlags::CLOEXEC)?;
    let memory = File::from(memory);
    memory.set_len(PAGES * PAGE_SIZE as u64)?;
    // Whatever the descriptor is open for can be opened once more by this name.
    let image = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
    let log = Arc::new(DirtyLog::new(&[PAGES]));
    let cpu = Arc::new(Cpu {
        state: Mutex::new(State::Running),
        changed: Condvar::new(),
    });

    thread::scope(|scope| {
        let running = scope.spawn(|| cpu.run(&memory, &log));
        let migrated = migrate(&image, &cpu, &log);
        // Also when it failed, and the guest was left running.
        cpu.set(State::Ended);
        running.join().map_err(|_| "the CPU panicked")??;
        migrated
    })
}

/// Sends the memory to a receiver, and compares what it has got with what there is.
fn migrate(
    image: &PathBuf,
    cpu: &Arc<Cpu>,
    log: &Arc<DirtyLog>,
) -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("received.ram");
    let address: Address = format!("unix:{}", folder.path().join("socket").display()).parse()?;
    let params = Params {
        downtime_limit: Duration::from_millis(100),
        ..Params::default()
    };

    let receiving = Migration::receive(&output)
        .from(address.clone())
        .on_dropped(|line| eprintln!("{line}"))
        .start()?;
    let live = Live::new(WriterChoice::Own(Arc::new(Mutex::new(Control(
        Arc::clone(cpu),
    )))))
    .tracked_by(log.clone());
    let sending = Migration::send(image).to(address).live(live);
    let sent = sending.settings(params).start()?.wait()?;
    let received = receiving.wait()?;

    for round in &sent.rounds {
        println!(
            "round {}: {} pages, {} bytes on the wire, {:.1?}",
            round.round, round.pages, round.wire_bytes, round.time
        );
    }
    println!("downtime: {:.1?}", sent.downtime.unwrap_or_default());
    // The guest was let go for good, so its memory is still as it was when it stopped.
    if sent.digest != received.digest || std::fs::read(image)? != std::fs::read(&output)? {
        return Err("the receiver has something else".into());
    }
    println!("the receiver has what the guest had: {PAGES} pages");
    Ok(())
}
