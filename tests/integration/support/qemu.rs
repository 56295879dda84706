//! A QEMU as a child process: what it is started with, its monitor, its qtest socket, its serial
//! port, and its RAM as a file.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::Receiver;
use std::thread;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::support::qmp::{Event, Qmp};
use crate::support::{Folder, lines, test_name};

// ---- the program

/// A QEMU that can be run.
#[derive(Debug)]
pub(crate) struct Binary {
    program: OsString,
}

/// The QEMU to test with. Without one the test is to return at once: it says that it was skipped,
/// or fails if `RAMFERRY_REQUIRE_QEMU` is 1.
pub(crate) fn qemu_or_skip() -> Option<&'static Binary> {
    static FOUND: OnceLock<Result<Binary, String>> = OnceLock::new();
    match FOUND.get_or_init(Binary::find) {
        Ok(binary) => Some(binary),
        Err(why) => {
            let required = std::env::var("RAMFERRY_REQUIRE_QEMU").is_ok_and(|value| value == "1");
            assert!(
                !required,
                "{why}, and RAMFERRY_REQUIRE_QEMU is 1 (apt-get install qemu-system-x86)"
            );
            skipped(why);
            None
        }
    }
}

/// Says that the rest of this test is not done.
pub(crate) fn skipped(why: &str) {
    let line = format!("SKIPPED: {}: {why}\n", test_name());
    // Not by a macro: what those print is captured, and lost when the test passes.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

impl Binary {
    fn find() -> Result<Binary, String> {
        let program =
            std::env::var_os("RAMFERRY_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into());
        let name = program.to_string_lossy().into_owned();
        let output = Command::new(&program)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{name} cannot be run: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && text.starts_with("QEMU emulator version ") {
            Ok(Binary { program })
        } else {
            let said = text.lines().next().unwrap_or_default();
            let status = output.status;
            Err(format!("{name} --version says {said:?}, {status}"))
        }
    }

    /// What it is called.
    pub(crate) fn program(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    /// A machine whose RAM is this image, which stays as it is.
    pub(crate) fn source(&self, image: &Path) -> Machine<'_> {
        let bytes = std::fs::metadata(image).unwrap().len();
        self.machine(image, bytes)
    }

    /// A machine that waits for [`Qemu::migrate_incoming`] and leaves its RAM of `bytes` in
    /// `output`.
    pub(crate) fn destination(&self, output: &Path, bytes: u64) -> Machine<'_> {
        self.machine(output, bytes)
            .shared()
            .args(["-incoming", "defer"])
    }

    fn machine(&self, ram: &Path, bytes: u64) -> Machine<'_> {
        assert_eq!(bytes % 8192, 0, "QEMU rounds up what is not a multiple");
        Machine {
            binary: self,
            ram: ram.to_owned(),
            bytes,
            machine: "pc".to_owned(),
            shared: false,
            qtest: false,
            serial: false,
            args: Vec::new(),
        }
    }
}

// ---- the machine

/// The name of the RAM's block, which is the backend's: as the machine calls it by itself.
const RAM_BLOCK: &str = "pc.ram";

/// A machine that is not yet running: a stopped guest without devices, emulated by software.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    binary: &'a Binary,
    ram: PathBuf,
    bytes: u64,
    machine: String,
    shared: bool,
    qtest: bool,
    serial: bool,
    args: Vec<OsString>,
}

impl Machine<'_> {
    /// What is written to the RAM shows in its image.
    pub(crate) fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// Another machine than `pc`.
    pub(crate) fn machine(mut self, name: &str) -> Self {
        self.machine = name.to_owned();
        self
    }

    /// With [`Qemu::qtest_write`].
    pub(crate) fn qtest(mut self) -> Self {
        self.qtest = true;
        self
    }

    /// With a serial port that [`Qemu::serial_lines`] reads.
    pub(crate) fn serial(mut self) -> Self {
        self.serial = true;
        self
    }

    /// Boots from this image.
    pub(crate) fn floppy(self, image: &Path) -> Self {
        let drive = format!("file={},format=raw,if=floppy,readonly=on", image.display());
        self.args(["-drive", &drive])
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        self.args.extend(args);
        self
    }

    /// Starts it and shakes hands with its monitor. Events of migrations are on.
    pub(crate) fn start(self) -> Qemu {
        let folder = Folder::in_memory();
        let mut command = Command::new(&self.binary.program);
        command.args(["-S", "-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-accel", "tcg", "-m", &format!("{}k", self.bytes >> 10)]);
        command.args([
            "-machine",
            &format!("{},memory-backend={RAM_BLOCK}", self.machine),
        ]);
        let share = if self.shared { "on" } else { "off" };
        let backend = format!(
            "memory-backend-file,id={RAM_BLOCK},size={},mem-path={},share={share}",
            self.bytes,
            self.ram.display()
        );
        command.args(["-object", &backend]);

        // The monitor is its standard input: there is no moment at which it does not listen yet,
        // and its end is the end of the child.
        command.args(["-chardev", "socket,id=monitor,fd=0"]);
        command.args(["-mon", "chardev=monitor,mode=control"]);
        let (near, far) = UnixStream::pair().unwrap();

        // It connects to the others before it answers its monitor.
        let qtest = self.qtest.then(|| {
            let path = folder.path("qtest");
            command.args(["-qtest", &format!("unix:{}", path.display())]);
            // Its log would fill standard error, and then stop it.
            command.args(["-qtest-log", "/dev/null"]);
            UnixListener::bind(path).unwrap()
        });
        let serial = self.serial.then(|| {
            let path = folder.path("serial");
            let device = format!("socket,id=serial,path={}", path.display());
            command.args(["-chardev", &device, "-serial", "chardev:serial"]);
            UnixListener::bind(path).unwrap()
        });

        let mut child = command
            .args(&self.args)
            .stdin(OwnedFd::from(far))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // With the command goes this side's copy of the child's end of the monitor.
        drop(command);
        let mut qemu = Qemu {
            err: lines(child.stderr.take().unwrap()),
            child,
            monitor: Qmp::over(near),
            qtest: None,
            serial: None,
            ram: self.ram,
        };
        let greeting = qemu
            .monitor
            .message()
            .unwrap_or_else(|| qemu.died("at its start"));
        assert!(greeting.get("QMP").is_some(), "{greeting}");
        qemu.qmp("qmp_capabilities", json!({}));
        qemu.set_capabilities(&[("events", true)]);
        qemu.qtest = qtest.map(|listener| BufReader::new(listener.accept().unwrap().0));
        qemu.serial = serial.map(|listener| Serial {
            port: listener.accept().unwrap().0,
            text: Vec::new(),
        });
        qemu
    }
}

// ---- the running QEMU

/// A running QEMU. It is killed when dropped.
pub(crate) struct Qemu {
    child: Child,
    monitor: Qmp,
    qtest: Option<BufReader<UnixStream>>,
    serial: Option<Serial>,
    err: Receiver<String>,
    ram: PathBuf,
}

struct Serial {
    port: UnixStream,
    text: Vec<u8>,
}

/// How a QEMU ended.
#[derive(Debug)]
pub(crate) struct Gone {
    /// `None`: by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) err: String,
    /// All that came from its serial port.
    pub(crate) serial: String,
}

impl Qemu {
    /// The file that backs its RAM.
    pub(crate) fn ram(&self) -> &Path {
        &self.ram
    }

    /// What a command answers.
    #[track_caller]
    pub(crate) fn qmp(&mut self, command: &str, arguments: Value) -> Value {
        self.try_qmp(command, arguments)
            .unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// What a command answers, or the words it is refused with.
    #[track_caller]
    pub(crate) fn try_qmp(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let answer = self.monitor.ask(command, arguments);
        answer.unwrap_or_else(|| self.died(&format!("before it answered {command}")))
    }

    /// The answer to the last request.
    #[track_caller]
    fn answer(&mut self, command: &str) -> Result<Value, String> {
        let answer = self.monitor.answer();
        answer.unwrap_or_else(|| self.died(&format!("before it answered {command}")))
    }

    /// Hands it a descriptor, which is `fd:NAME` from then on.
    #[track_caller]
    pub(crate) fn give_fd(&mut self, name: &str, fd: &OwnedFd) {
        let request = self.monitor.request("getfd", json!({"fdname": name}));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [fd.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let bytes = [IoSlice::new(request.as_bytes())];
        let monitor = self.monitor.stream.get_ref();
        let sent = sendmsg(monitor, &bytes, &mut control, SendFlags::empty()).unwrap();
        assert_eq!(sent, request.len());
        self.answer("getfd").unwrap();
    }

    /// Waits for an event that is so, and takes it and all before it away. `None`: QEMU is gone.
    pub(crate) fn wait_event(&mut self, is_so: impl Fn(&Event) -> bool) -> Option<Event> {
        loop {
            let event = self.monitor.event()?;
            if is_so(&event) {
                return Some(event);
            }
        }
    }

    #[track_caller]
    fn died(&mut self, when: &str) -> ! {
        let err: Vec<String> = self.err.iter().collect();
        panic!("QEMU went away {when}: {:?}, {err:?}", self.child.wait());
    }

    // ---- migrations

    /// Sets these; the others stay as they are.
    #[track_caller]
    pub(crate) fn set_capabilities(&mut self, capabilities: &[(&str, bool)]) {
        let list: Vec<Value> = capabilities
            .iter()
            .map(|(name, state)| json!({"capability": name, "state": state}))
            .collect();
        self.qmp("migrate-set-capabilities", json!({"capabilities": list}));
    }

    /// `compress` for one is not in every version.
    pub(crate) fn has_capability(&mut self, name: &str) -> bool {
        let all = self.qmp("query-migrate-capabilities", json!({}));
        let all = all.as_array().unwrap();
        all.iter()
            .any(|capability| capability["capability"] == name)
    }

    #[track_caller]
    pub(crate) fn set_parameters(&mut self, parameters: Value) {
        self.qmp("migrate-set-parameters", parameters);
    }

    /// Starts a migration to `uri`. Events of an earlier one, which did not complete, are forgotten.
    #[track_caller]
    pub(crate) fn migrate(&mut self, uri: &str) {
        self.monitor.events.clear();
        self.qmp("migrate", json!({"uri": uri}));
    }

    /// Listens at `uri`, or reads it. It listens when this returns.
    #[track_caller]
    pub(crate) fn migrate_incoming(&mut self, uri: &str) {
        self.monitor.events.clear();
        self.qmp("migrate-incoming", json!({"uri": uri}));
    }

    /// Waits until the migration has this status.
    #[track_caller]
    pub(crate) fn wait_status(&mut self, status: &str) {
        let found = self.wait_status_or_end(Some(status));
        let found = found.unwrap_or_else(|| self.died(&format!("before {status}")));
        if found != status {
            panic!("{found} instead of {status}: {}", self.query_migrate());
        }
    }

    /// Waits for the end of the migration: `completed`, `failed` or `cancelled`. A destination
    /// that cannot load a stream ends itself (see [`Qemu::wait`]); that too is `failed`.
    pub(crate) fn wait_migration(&mut self) -> String {
        self.wait_status_or_end(None)
            .unwrap_or_else(|| "failed".to_owned())
    }

    fn wait_status_or_end(&mut self, status: Option<&str>) -> Option<String> {
        let is_it = |event: &Event| {
            let now = event.data["status"].as_str();
            let ended = matches!(now, Some("completed" | "failed" | "cancelled"));
            event.name == "MIGRATION" && (ended || now == status)
        };
        let event = self.wait_event(is_it)?;
        Some(event.data["status"].as_str()?.to_owned())
    }

    pub(crate) fn query_migrate(&mut self) -> Value {
        self.qmp("query-migrate", json!({}))
    }

    // ---- the guest

    /// Writes to the guest's memory as one of its processors would; the pages become dirty.
    /// 0xa0000 to 0xfffff is not RAM.
    #[track_caller]
    pub(crate) fn qtest_write(&mut self, address: u64, bytes: &[u8]) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let request = format!("write {address:#x} {:#x} 0x{hex}\n", bytes.len());
        assert_eq!(self.qtest(&request), "OK");
    }

    /// Reads the guest's memory.
    #[track_caller]
    pub(crate) fn qtest_read(&mut self, address: u64, len: usize) -> Vec<u8> {
        let answer = self.qtest(&format!("read {address:#x} {len:#x}\n"));
        let hex = answer.strip_prefix("OK 0x").unwrap();
        let pairs = hex.as_bytes().chunks(2);
        pairs
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[track_caller]
    fn qtest(&mut self, request: &str) -> String {
        let qtest = self.qtest.as_mut().expect("a machine with qtest");
        qtest.get_ref().write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        qtest.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    /// Lets the guest run.
    #[track_caller]
    pub(crate) fn cont(&mut self) {
        self.qmp("cont", json!({}));
    }

    /// Stops the guest.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.qmp("stop", json!({}));
    }

    /// `running`, `paused`, `prelaunch` and the like.
    pub(crate) fn query_status(&mut self) -> String {
        let status = self.qmp("query-status", json!({}));
        status["status"].as_str().unwrap().to_owned()
    }

    /// Waits until `count` lines in all have come from the serial port; all text until now. The
    /// guest waits when the port is not read for long.
    #[track_caller]
    pub(crate) fn serial_lines(&mut self, count: usize) -> String {
        let serial = self.serial.as_mut().expect("a machine with a serial port");
        while serial.text.iter().filter(|byte| **byte == b'\n').count() < count {
            let mut buffer = [0; 4096];
            let read = serial.port.read(&mut buffer).unwrap();
            assert_ne!(read, 0, "the serial port hung up before line {count}");
            serial.text.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8_lossy(&serial.text).into_owned()
    }

    // ---- the end

    /// Ends it.
    pub(crate) fn quit(mut self) -> Gone {
        let _ = self.try_qmp("quit", json!({}));
        self.wait()
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(mut self) -> Gone {
        while self.monitor.message().is_some() {}
        let mut text = Vec::new();
        if let Some(serial) = &mut self.serial {
            text = std::mem::take(&mut serial.text);
            // A reset by a killed QEMU loses nothing that came before it.
            let _ = serial.port.read_to_end(&mut text);
        }
        let err = self.err.iter().map(|line| line + "\n").collect();
        let status = self.child.wait().unwrap();
        Gone {
            code: status.code(),
            err,
            serial: String::from_utf8_lossy(&text).into_owned(),
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            for line in self.err.iter() {
                eprintln!("QEMU said: {line}");
            }
        }
    }
}
