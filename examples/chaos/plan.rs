//! What a run does, decided by its seed alone.

use serde::Serialize;

use crate::dice::Dice;

/// A run: a guest, two ends with their settings, and what goes wrong.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) guest: Guest,
    pub(crate) mode: Mode,
    pub(crate) wire: Wire,
    pub(crate) path: Path,
    /// What is at OUTPUT before.
    pub(crate) old: Old,
    /// Whether OUTPUT may be replaced.
    pub(crate) force: bool,
    /// Whose report does not find room on standard output.
    pub(crate) full: Option<End>,
    pub(crate) disk: Disk,
    pub(crate) send: Vec<String>,
    pub(crate) receive: Vec<String>,
    /// The source is a waiting monitor, which is told to migrate.
    pub(crate) monitored: bool,
    pub(crate) clients: Vec<Client>,
    pub(crate) faults: Vec<Fault>,
    /// A second live send of the same writer at the same time, to a destination of its own.
    pub(crate) twice: bool,
    pub(crate) after: After,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Guest {
    /// Which of the campaign's images.
    pub(crate) template: u64,
    /// As a guest folder with device state rather than a raw image.
    pub(crate) folder: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Mode {
    Still,
    /// With so many later images.
    Rounds(u64),
    Live(Writer),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Writer {
    pub(crate) pattern: &'static str,
    pub(crate) rate: u64,
    pub(crate) threads: u64,
    /// Stopped and resumed by commands instead of `--pid`.
    pub(crate) by_commands: bool,
    /// Its user has stopped it before, and sends it with `--paused-ok`.
    pub(crate) paused: bool,
}

impl Writer {
    fn draw(dice: &mut Dice) -> Writer {
        let held = dice.below(14);
        Writer {
            pattern: dice.pick(&["random", "random", "sequential", "hotset", "counter"]),
            rate: dice.pick(&[200, 1000, 5000, 20000]),
            threads: 1 + dice.below(3),
            by_commands: held < 2,
            paused: held == 2,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Wire {
    Native,
    Qemu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Path {
    Unix,
    Tcp,
    /// A stream that is stored, then received.
    File,
    /// The same through commands, at both ends.
    Exec,
    /// The destination is the source's command.
    Pipe,
}

impl Path {
    /// Whether both ends run at once, with the campaign's relay between them.
    pub(crate) fn has_relay(self) -> bool {
        matches!(self, Path::Unix | Path::Tcp)
    }

    pub(crate) fn is_stored(self) -> bool {
        matches!(self, Path::File | Path::Exec)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Old {
    Nothing,
    /// Replaced, with `--force`.
    Something,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Disk {
    Roomy,
    /// The output is on a file system of so many KiB, which may be too small.
    Small(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub(crate) enum End {
    Source,
    Destination,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Way {
    Forth,
    Back,
}

/// When a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum When {
    /// Milliseconds after the source was started (for a stored stream: after the end it is about).
    Time(u64),
    /// Before this byte passes.
    Byte(Way, u64),
    /// Before the first message of this kind passes (native wire).
    Message(Way, &'static str),
    /// So many microseconds after that message began to pass.
    After(Way, &'static str, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum What {
    Cut,
    HalfClose,
    /// A bit of the next byte, in flight or in the stored stream.
    Flip(u8),
    Kill(End),
    /// The process that resumes the writer if the source is killed.
    KillGuard,
    Terminate(End),
    Interrupt(End),
    /// Stopped, and continued after so many milliseconds.
    Pause(End, u64),
    /// By another program: the writer is stopped, and resumed after so many milliseconds.
    PauseWriter(u64),
    /// By another program: the writer is resumed, whoever stopped it.
    ContinueWriter,
    KillWriter,
    /// From now on the destination's files cannot grow.
    FileLimit,
    /// The image, or the stored stream, loses its end.
    Truncate,
    /// A monitor's client cancels.
    Cancel(End),
    /// Another program creates a file at OUTPUT.
    OutputAppears,
}

impl What {
    pub(crate) fn name(self) -> &'static str {
        match self {
            What::Cut => "cut",
            What::HalfClose => "half-close",
            What::Flip(_) => "flipped bit",
            What::Kill(End::Source) => "kill source",
            What::Kill(End::Destination) => "kill destination",
            What::KillGuard => "kill guard",
            What::Terminate(End::Source) => "SIGTERM source",
            What::Terminate(End::Destination) => "SIGTERM destination",
            What::Interrupt(End::Source) => "SIGINT source",
            What::Interrupt(End::Destination) => "SIGINT destination",
            What::Pause(End::Source, _) => "pause source",
            What::Pause(End::Destination, _) => "pause destination",
            What::PauseWriter(_) => "writer paused by others",
            What::ContinueWriter => "writer resumed by others",
            What::KillWriter => "kill writer",
            What::FileLimit => "file limit",
            What::Truncate => "truncated file",
            What::OutputAppears => "output appears",
            What::Cancel(End::Source) => "cancel at source",
            What::Cancel(End::Destination) => "cancel at destination",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    pub(crate) what: What,
    pub(crate) when: When,
}

/// What a monitor's client does: it may hang up at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Client {
    pub(crate) end: End,
    pub(crate) seed: u64,
    pub(crate) commands: u64,
    /// Sends nonsense instead, or never reads.
    pub(crate) rude: bool,
    /// Waits for pre-switchover and goes on from there.
    pub(crate) goes_on: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum After {
    Nothing,
    /// The same command again: it must work, unless the guest was handed over.
    Again,
    /// As an orchestrator that does not look at the exit code, to a destination that does not exist.
    AgainNowhere,
}

/// How many images there are, and their sizes in pages.
pub(crate) const TEMPLATES: [(usize, u64); 8] = [
    (0, 256),
    (1, 256),
    (2, 512),
    (3, 256),
    (1, 512),
    (1, 1024),
    (0, 2048),
    (2, 333),
];

const MESSAGES: [(Way, &str); 9] = [
    (Way::Forth, "Pages frame"),
    (Way::Forth, "RoundEnd"),
    (Way::Forth, "Finish"),
    (Way::Back, "Proven"),
    (Way::Back, "Proven"),
    (Way::Forth, "Commit"),
    (Way::Forth, "Commit"),
    (Way::Back, "Committed"),
    (Way::Back, "Committed"),
];

impl Plan {
    pub(crate) fn new(seed: u64) -> Plan {
        let dice = &mut Dice::new(seed);
        let mode = match dice.below(10) {
            0 | 1 => Mode::Still,
            2 => Mode::Rounds(1 + dice.below(3)),
            _ => Mode::Live(Writer::draw(dice)),
        };
        let wire = match dice.below(5) {
            0 => Wire::Qemu,
            _ => Wire::Native,
        };
        let path = match dice.below(12) {
            0..6 => Path::Unix,
            6..9 => Path::Tcp,
            9 => Path::File,
            10 => Path::Exec,
            _ => Path::Pipe,
        };
        let mut plan = Plan {
            seed,
            guest: Guest {
                template: dice.below(TEMPLATES.len() as u64),
                folder: dice.one_in(5),
            },
            mode,
            wire,
            path,
            old: dice.pick(&[Old::Nothing, Old::Something]),
            force: false,
            full: None,
            disk: Disk::Roomy,
            send: Vec::new(),
            receive: Vec::new(),
            monitored: false,
            clients: Vec::new(),
            faults: Vec::new(),
            twice: false,
            after: dice.pick(&[After::Nothing, After::Again, After::AgainNowhere]),
        };
        plan.force = plan.old == Old::Something || dice.one_in(2);
        plan.draw_settings(dice);
        plan.draw_live_settings(dice);
        plan.draw_output_settings(dice);
        plan.draw_faults(dice);
        plan.draw_rest(dice);
        plan
    }

    pub(crate) fn pages(&self) -> u64 {
        TEMPLATES[self.guest.template as usize].1
    }

    pub(crate) fn is_live(&self) -> bool {
        matches!(self.mode, Mode::Live(_))
    }

    pub(crate) fn writer(&self) -> Option<Writer> {
        match self.mode {
            Mode::Live(writer) => Some(writer),
            _ => None,
        }
    }

    pub(crate) fn has(&self, what: impl Fn(What) -> bool) -> bool {
        self.faults.iter().any(|fault| what(fault.what))
    }

    /// Words that `--only` selects by.
    pub(crate) fn labels(&self) -> Vec<&'static str> {
        let mut labels = vec![
            match self.mode {
                Mode::Still => "still",
                Mode::Rounds(_) => "rounds",
                Mode::Live(_) => "live",
            },
            match self.wire {
                Wire::Native => "native",
                Wire::Qemu => "qemu",
            },
            match self.path {
                Path::Unix => "unix",
                Path::Tcp => "tcp",
                Path::File => "file",
                Path::Exec => "exec",
                Path::Pipe => "pipe",
            },
        ];
        let more = [
            (self.guest.folder, "folder"),
            (self.monitored, "monitored"),
            (self.full.is_some(), "no room for a report"),
            (self.twice, "twice"),
            (!self.clients.is_empty(), "monitor"),
            (matches!(self.disk, Disk::Small(_)), "small disk"),
            (self.faults.is_empty(), "no fault"),
            (self.writer().is_some_and(|w| w.by_commands), "commands"),
            (self.writer().is_some_and(|w| w.paused), "paused"),
            (self.after != After::Nothing && self.is_live(), "retry"),
        ];
        labels.extend(more.iter().filter(|(is, _)| *is).map(|(_, label)| label));
        labels.extend(self.faults.iter().map(|fault| fault.what.name()));
        labels
    }

    fn draw_settings(&mut self, dice: &mut Dice) {
        let mut set = |name: &str, values: &[&str]| {
            let value = dice.pick(values);
            if !value.is_empty() {
                self.send.extend([format!("--{name}"), value.to_owned()]);
            }
        };
        let methods = [
            "", "none", "zlib", "zlib:6", "gzip", "lz4", "zstd", "zstd:3", "zstd:9",
        ];
        if self.wire == Wire::Native {
            set("compress-method", &methods);
            if self.path.has_relay() {
                set("connections", &["", "", "2", "3", "8"]);
            }
            set("delta-compress", &["", "off"]);
        }
        set("compress-threads", &["1", "2", "3", "8"]);
        set("batch-pages", &["", "", "1", "8", "32", "256"]);
        set("xbzrle-cache-size", &["", "64KiB", "1MiB"]);
        set("zlib-engine", &["", "", "zlib-rs"]);
        set("compress-wait-thread", &["", "", "off"]);
        set("max-bandwidth", &["", "", "", "32MiB"]);
        let link = dice.pick(&["", "", "", "", "", "400Mbit", "1Gbit/1ms"]);
        for end in [&mut self.send, &mut self.receive] {
            if !link.is_empty() {
                end.extend(["--link".to_owned(), link.to_owned()]);
            }
        }
        if dice.one_in(3) {
            self.send.push("--capability=xbzrle=off".to_owned());
        }
    }

    fn draw_live_settings(&mut self, dice: &mut Dice) {
        if !self.is_live() {
            return;
        }
        for (name, values) in [
            ("downtime-limit", &["0", "0", "300"][..]),
            ("max-rounds", &["1", "2", "4"]),
            ("max-time", &["", "", "20ms"]),
        ] {
            let value = dice.pick(values);
            if !value.is_empty() {
                self.send.extend([format!("--{name}"), value.to_owned()]);
            }
        }
        if dice.one_in(4) {
            self.send.push("--capability=auto-converge=on".to_owned());
        }
    }

    fn draw_output_settings(&mut self, dice: &mut Dice) {
        let threads = dice.pick(&["1", "2", "4"]);
        self.receive
            .extend(["--decompress-threads".to_owned(), threads.to_owned()]);
        for end in [End::Source, End::Destination] {
            let args = match end {
                End::Source => &mut self.send,
                End::Destination => &mut self.receive,
            };
            match dice.below(4) {
                0 => {
                    args.push("--json".to_owned());
                    // On a port that is picked, the address comes on standard output, too.
                    if dice.one_in(4) && (end == End::Source || self.path == Path::Unix) {
                        self.full = Some(end);
                    }
                }
                1 => args.push("--quiet".to_owned()),
                _ => {}
            }
        }
        if dice.one_in(3) {
            self.receive.push("--no-sync".to_owned());
        }
    }

    fn draw_faults(&mut self, dice: &mut Dice) {
        let count = dice.pick(&[0, 1, 1, 1, 1, 1, 2, 2]);
        for _ in 0..count {
            let what = self.draw_what(dice);
            let when = self.draw_when(dice, what);
            self.faults.push(Fault { what, when });
        }
        // Who waits for a paused peer gives up after a while.
        let limit = match self.has(|what| matches!(what, What::Pause(_, 800..) | What::HalfClose)) {
            true => "600ms",
            false => "20",
        };
        for end in [&mut self.send, &mut self.receive] {
            end.extend(["--timeout".to_owned(), limit.to_owned()]);
        }
    }

    fn draw_what(&self, dice: &mut Dice) -> What {
        let end = dice.pick(&[End::Source, End::Source, End::Destination]);
        loop {
            let what = match dice.below(23) {
                0..3 => What::Cut,
                3 => What::HalfClose,
                4 | 5 => What::Flip(dice.below(8) as u8),
                6..9 => What::Kill(end),
                9 => What::KillGuard,
                10 => What::Terminate(end),
                11 => What::Interrupt(end),
                12 | 13 => What::Pause(end, dice.pick(&[5, 50, 200, 1200])),
                14 => What::PauseWriter(dice.pick(&[1, 10, 100])),
                15 => What::ContinueWriter,
                16 => What::KillWriter,
                17 => What::FileLimit,
                18 => What::Truncate,
                19 | 20 => What::Cancel(end),
                21 => What::OutputAppears,
                _ => What::Terminate(end),
            };
            let by_pid = self.writer().is_some_and(|writer| !writer.by_commands);
            let runs = self.writer().is_some_and(|writer| !writer.paused);
            let fits = match what {
                What::Cut | What::HalfClose => self.path.has_relay(),
                What::Flip(_) => self.path != Path::Pipe,
                What::KillGuard => by_pid,
                What::OutputAppears => !self.force && self.disk == Disk::Roomy,
                // Commands do not notice that another program resumes the writer, as docs/live.md says.
                What::PauseWriter(_) | What::ContinueWriter => runs && by_pid,
                What::KillWriter => self.is_live(),
                What::Truncate => self.path.is_stored() || !self.is_live(),
                // The destination is a grandchild, whose PID is the shell's.
                _ if self.path == Path::Pipe => !matches!(
                    what,
                    What::Kill(End::Destination)
                        | What::Terminate(End::Destination)
                        | What::Interrupt(End::Destination)
                        | What::Pause(End::Destination, _)
                        | What::Cancel(End::Destination)
                        | What::FileLimit
                ),
                _ => true,
            };
            if fits {
                return what;
            }
        }
    }

    fn draw_when(&self, dice: &mut Dice, what: What) -> When {
        let time = When::Time(dice.small_below(160));
        if !self.path.has_relay() {
            return match what {
                What::Flip(_) | What::Truncate if self.path.is_stored() => {
                    When::Byte(Way::Forth, dice.below(self.pages() * 2048))
                }
                _ => time,
            };
        }
        let needs_relay = matches!(what, What::Cut | What::HalfClose | What::Flip(_));
        match dice.below(8) {
            0 | 1 if !needs_relay => time,
            0..4 => When::Byte(Way::Forth, dice.below(self.pages() * 2048)),
            4 => When::Byte(Way::Back, dice.small_below(256)),
            5 if self.wire == Wire::Qemu => When::Byte(Way::Back, dice.small_below(24)),
            _ if self.wire == Wire::Qemu => {
                When::Byte(Way::Forth, dice.small_below(self.pages() * 4096))
            }
            _ => {
                let (way, kind) = dice.pick(&MESSAGES);
                match needs_relay || dice.one_in(2) {
                    true => When::Message(way, kind),
                    false => When::After(way, kind, dice.below(3000)),
                }
            }
        }
    }

    fn draw_rest(&mut self, dice: &mut Dice) {
        let room = self.pages() * 4;
        if dice.one_in(14) && !self.has(|what| what == What::OutputAppears) {
            self.disk = Disk::Small(16 + dice.below(room * 5 / 4));
        }
        let cancels = |end| self.has(|what| what == What::Cancel(end));
        let wanted = [End::Source, End::Destination].map(|end| (end, cancels(end)));
        let relayed = self.path.has_relay();
        for (end, cancels) in wanted {
            let some = dice.one_in(6) && (relayed || end == End::Source);
            if !(some || cancels) {
                continue;
            }
            let args = match end {
                End::Source => &mut self.send,
                End::Destination => &mut self.receive,
            };
            args.extend(["--monitor".to_owned(), format!("unix:{}", socket(end))]);
            for _ in 0..dice.below(3) {
                self.clients.push(Client {
                    end,
                    seed: dice.below(1 << 32),
                    commands: dice.below(12),
                    rude: dice.one_in(4),
                    goes_on: false,
                });
            }
            if end == End::Source && dice.one_in(3) {
                self.send
                    .push("--capability=pause-before-switchover=on".to_owned());
                self.clients.push(Client {
                    end,
                    seed: 0,
                    commands: 0,
                    rude: false,
                    goes_on: true,
                });
            }
        }
        self.twice = self.writer().is_some_and(|writer| !writer.by_commands)
            && self.path == Path::Unix
            && dice.one_in(8);
        let signals = [What::Terminate(End::Source), What::Interrupt(End::Source)];
        // What becomes of a migration is not asked in time if its monitor is ended by a signal.
        self.monitored = self.path.has_relay()
            && dice.one_in(6)
            && !self.twice
            && !self.has(|what| signals.contains(&what));
        if self.monitored && self.full == Some(End::Source) {
            self.full = None;
        }
        if self.after == After::Nothing && dice.one_in(2) {
            self.after = After::Again;
        }
    }
}

/// The name of the monitor's socket in a run's folder.
pub(crate) fn socket(end: End) -> &'static str {
    match end {
        End::Source => "source.qmp",
        End::Destination => "destination.qmp",
    }
}
