//! `send --live --qmp`: the guest of a QEMU, which reads a slow disk into its RAM all the time, so that a
//! read is under way whenever it is stopped.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use ramferry::wire::native::FrameKind;
use rustix::process::Signal;

use super::guest::{reader_disk, reads};
use crate::support::live::{Moment, Relay, Then, Way, moment};
use crate::support::qemu::{Binary, Qemu, qemu_or_skip};
use crate::support::{Folder, Page, Program, assert_same, command, until, watchdog};

struct Scene {
    folder: Folder,
    qemu: Qemu,
    qmp: String,
    output: PathBuf,
}

impl Scene {
    /// A guest that has begun to read.
    fn new(binary: &Binary) -> Scene {
        let mut scene = Scene::stopped(binary, |machine| machine.shared());
        scene.qemu.cont();
        until(|| reads(scene.qemu.ram()) > 2);
        scene
    }

    fn stopped(
        binary: &Binary,
        with: impl FnOnce(crate::support::qemu::Machine<'_>) -> crate::support::qemu::Machine<'_>,
    ) -> Scene {
        let folder = Folder::in_memory();
        let image = folder.image("ram", &vec![Page::Hole; 4096]);
        let disk = reader_disk(&folder);
        let drive = format!(
            "file={},format=raw,if=virtio,throttling.iops-total=100",
            disk.display()
        );
        let qmp = format!("unix:{}", folder.path("qmp").display());
        let server = format!("{qmp},server=on,wait=off");
        let machine = binary
            .source(&image)
            .args(["-drive", &drive, "-qmp", &server]);
        Scene {
            qemu: with(machine).start(),
            output: folder.path("out"),
            folder,
            qmp,
        }
    }

    fn image(&self) -> String {
        self.qemu.ram().display().to_string()
    }

    fn address(&self, name: &str) -> String {
        format!("unix:{}", self.folder.path(name).display())
    }

    fn receive(&self) -> Program {
        let output = self.output.display().to_string();
        let far = self.address("far");
        let mut receive = Program::start(command(&["receive", &far, &output, "--force"]));
        receive.listening();
        receive
    }

    fn send(&self, to: &str, args: &[&str]) -> Program {
        let (image, to) = (self.image(), self.address(to));
        let fixed = ["send", &image, &to, "--live", "--qmp", &self.qmp];
        let rounds = ["--downtime-limit", "0", "--max-rounds", "2"];
        Program::start(command(&[&fixed[..], &rounds, args].concat()))
    }

    fn hold(&self, way: Way, kind: FrameKind) -> (Relay, Moment) {
        let (mut hold, moment) = moment();
        let (near, far) = (self.folder.path("near"), self.folder.path("far"));
        let is_it =
            move |seen: &crate::support::live::Seen| seen.way == way && seen.kind == Some(kind);
        let relay = Relay::at(&near, &far, is_it, move || {
            hold();
            Then::Pass
        });
        (relay, moment)
    }

    #[track_caller]
    fn refused(&self, args: &[&str], code: i32, words: &[&str]) {
        self.send("far", args).finish().failed_with(code, words);
    }

    /// It arrives, and stays paused here.
    #[track_caller]
    fn arrives(&mut self, args: &[&str]) {
        let receive = self.receive();
        self.send("far", args).finish().succeeded();
        receive.finish().succeeded();
        assert_ne!(self.qemu.query_status(), "running");
        self.is_copied();
    }

    #[track_caller]
    fn is_copied(&self) {
        assert_same(&self.output, self.qemu.ram());
    }

    #[track_caller]
    fn runs_on(&mut self) {
        until(|| self.qemu.query_status() == "running");
        let before = reads(self.qemu.ram());
        until(|| reads(self.qemu.ram()) != before);
    }
}

#[test]
fn a_guest_under_disk_io_arrives_as_it_was_stopped_and_nothing_comes_late() {
    let Some(binary) = qemu_or_skip() else { return };
    watchdog!();
    let mut scene = Scene::new(binary);
    for args in [&[][..], &["--again"], &["--again"]] {
        scene.arrives(args);
        // What is still under way would have come by the time that ten more reads take.
        let mut other = Scene::new(binary);
        let begun = reads(other.qemu.ram());
        until(|| reads(other.qemu.ram()) > begun + 10);
        other.qemu.stop();
        scene.is_copied();
        // It was handed over.
        scene.refused(&[], 1, &["was handed over", "--again"]);
        let words = ["is not running (state paused", "--paused-ok"];
        scene.refused(&["--again"], 1, &words);
        scene.qemu.cont();
        scene.runs_on();
    }
}

#[test]
fn a_paused_guest_is_refused_unless_it_is_asked_for_and_stays_paused() {
    let Some(binary) = qemu_or_skip() else { return };
    watchdog!();
    let mut scene = Scene::stopped(binary, |machine| machine.shared());
    scene.refused(&[], 1, &["state prelaunch", "-S", "--paused-ok"]);
    assert_eq!(scene.qemu.query_status(), "prelaunch");
    scene.arrives(&["--paused-ok"]);
    assert_eq!(scene.qemu.query_status(), "prelaunch");
    scene.qemu.cont();
    scene.runs_on();
    scene.qemu.stop();
    scene.arrives(&["--paused-ok", "--again"]);
    assert_eq!(scene.qemu.query_status(), "paused");
    // A failure leaves it paused as well.
    let receive = scene.receive();
    let (_relay, moment) = scene.hold(Way::Forth, FrameKind::Finish);
    let send = scene.send("near", &["--paused-ok", "--again"]);
    let mut sent = None;
    moment.act(|| {
        send.signal(Signal::TERM);
        sent = Some(send.finish());
    });
    sent.unwrap().failed_with(130, &[]);
    receive.finish();
    assert_eq!(scene.qemu.query_status(), "paused");
}

#[test]
fn a_guest_runs_on_when_the_source_is_killed_or_interrupted() {
    let Some(binary) = qemu_or_skip() else { return };
    watchdog!();
    let mut scene = Scene::new(binary);
    for (kind, signal) in [
        // In the bulk stage, and in the last round with the guest stopped.
        (FrameKind::Pages, Signal::KILL),
        (FrameKind::Finish, Signal::KILL),
        (FrameKind::Pages, Signal::TERM),
        (FrameKind::Finish, Signal::INT),
    ] {
        let receive = scene.receive();
        let (_relay, moment) = scene.hold(Way::Forth, kind);
        let send = scene.send("near", &[]);
        moment.act(|| {
            if kind == FrameKind::Finish {
                assert_eq!(scene.qemu.query_status(), "paused");
            }
            send.signal(signal);
            send.finish();
            scene.runs_on();
        });
        assert_ne!(receive.finish().code, Some(0));
        assert!(!scene.output.exists());
    }
    // The socket is free again.
    scene.arrives(&[]);
}

#[test]
fn a_guest_that_another_client_resumes_is_not_handed_over_and_left_to_that_client() {
    let Some(binary) = qemu_or_skip() else { return };
    watchdog!();
    let mut scene = Scene::new(binary);
    for (again, sign) in [(false, "state running"), (true, "event RESUME")] {
        let receive = scene.receive();
        let (_relay, moment) = scene.hold(Way::Back, FrameKind::Proven);
        let send = scene.send("near", &[]);
        moment.act(|| {
            assert_eq!(scene.qemu.query_status(), "paused");
            scene.qemu.cont();
            if again {
                scene.qemu.stop();
            }
        });
        send.finish()
            .failed_with(1, &["resumed by another client", sign, "no longer its RAM"]);
        assert_ne!(receive.finish().code, Some(0));
        let expected = if again { "paused" } else { "running" };
        assert_eq!(scene.qemu.query_status(), expected);
        assert!(!scene.output.exists());
    }
}

#[test]
fn a_migration_of_qemus_own_that_begins_later_is_refused() {
    let Some(binary) = qemu_or_skip() else { return };
    watchdog!();
    let mut scene = Scene::new(binary);
    let receive = scene.receive();
    let (_relay, moment) = scene.hold(Way::Back, FrameKind::Proven);
    let send = scene.send("near", &[]);
    moment.act(|| {
        // It takes minutes.
        scene
            .qemu
            .set_parameters(serde_json::json!({"max-bandwidth": 1000}));
        scene.qemu.migrate("exec:cat > /dev/null");
        scene.qemu.wait_status("active");
    });
    let words = ["migrates its guest itself (status active)"];
    send.finish().failed_with(1, &words);
    assert_ne!(receive.finish().code, Some(0));
    assert!(!scene.output.exists());
    scene.runs_on();
}

#[test]
fn a_part_of_the_guests_ram_is_refused() {
    let Some(binary) = qemu_or_skip() else { return };
    watchdog!();
    let other = Folder::in_memory();
    let more = other.image("more", &vec![Page::Zero; 4096]);
    let backend = format!(
        "memory-backend-file,id=more,mem-path={},share=on,size=16M",
        more.display()
    );
    let scene = Scene::stopped(binary, |machine| {
        let plugged = ["-m", "16M,slots=1,maxmem=64M", "-object", &backend];
        let device = ["-device", "pc-dimm,memdev=more"];
        machine.shared().args(plugged).args(device)
    });
    let words = ["has 32.00 MiB of RAM", "what is sent is 16.00 MiB of it"];
    scene.refused(&["--paused-ok"], 2, &words);
}

#[test]
fn an_image_that_is_not_the_guests_ram_is_refused() {
    let Some(binary) = qemu_or_skip() else { return };
    watchdog!();
    let scene = Scene::stopped(binary, |machine| machine);
    let words = ["is not the RAM of the QEMU", "share=on"];
    scene.refused(&["--paused-ok"], 2, &words);
    let scene = Scene::new(binary);
    let other = scene.folder.image("other", &vec![Page::Zero; 4]);
    let (other, to) = (other.display().to_string(), scene.address("far"));
    let send = command(&["send", &other, &to, "--live", "--qmp", &scene.qmp]);
    Program::start(send).finish().failed_with(2, &words);
}

#[test]
fn a_socket_that_is_taken_and_a_qemu_that_goes_away_are_named() {
    let Some(binary) = qemu_or_skip() else { return };
    watchdog!();
    let mut scene = Scene::new(binary);
    let taken = UnixStream::connect(scene.folder.path("qmp")).unwrap();
    let words = [
        "gave no greeting within",
        "is another client connected to it, or",
    ];
    scene.refused(&["--timeout", "200ms"], 1, &words);
    drop(taken);

    // One live migration at a time.
    let receive = scene.receive();
    let (_relay, moment) = scene.hold(Way::Forth, FrameKind::Pages);
    let send = scene.send("near", &[]);
    moment.act(|| {
        scene.refused(&[], 1, &["is being migrated already"]);
        scene.qemu.kill();
    });
    send.finish().failed_with(1, &["has ended"]);
    assert_ne!(receive.finish().code, Some(0));
}
