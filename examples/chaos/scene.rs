//! The files of a run: guests made from a few templates, an output, and what is left in the end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ramferry::page::PAGE_SIZE;
use ramferry::synthetic::{Mix, write_mix};
use xxhash_rust::xxh3::xxh3_64;

use crate::actor::OF_OTHERS;
use crate::dice::Dice;
use crate::plan::{Disk, Mode, Old, Plan, TEMPLATES};

/// What all runs of a worker share.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Where the runs have their folders.
    pub(crate) root: PathBuf,
    /// The program, by a path whose last part is `ramferry`.
    pub(crate) program: PathBuf,
}

impl Stage {
    /// Makes the templates, in `root`.
    pub(crate) fn prepare(root: &Path, program: &Path) -> io::Result<()> {
        std::fs::create_dir_all(root)?;
        std::os::unix::fs::symlink(program, root.join("ramferry"))?;
        for (number, (mix, pages)) in TEMPLATES.iter().enumerate() {
            let image = root.join(format!("template{number}"));
            let mixes: Vec<Mix> = Mix::ALL.into_iter().collect();
            let bytes = pages * PAGE_SIZE as u64;
            write_mix(&image, bytes, mixes[*mix], number as u64, &mut |_| true)?;
        }
        let run = |args: &[&str]| {
            let mut command = Command::new(root.join("ramferry"));
            command.args(args).current_dir(root).stdin(Stdio::null());
            let status = command.stdout(Stdio::null()).status()?;
            match status.success() {
                true => Ok(()),
                false => Err(io::Error::other(format!("{args:?}: {status}"))),
            }
        };
        // What arrives from a QEMU has device state.
        run(&[
            "send",
            "template0",
            "file:stream",
            "--wire",
            "qemu",
            "--quiet",
        ])?;
        run(&["receive", "file:stream", "folder", "--quiet"])?;
        std::fs::remove_file(root.join("stream"))
    }

    pub(crate) fn new(root: &Path) -> Stage {
        Stage {
            root: root.to_owned(),
            program: root.join("ramferry"),
        }
    }

    pub(crate) fn command(&self, args: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args);
        command
    }
}

/// The files of one run. Paths for the program are relative to its folder.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) folder: PathBuf,
    /// What is sent: an image or a guest folder.
    pub(crate) guest: String,
    /// The guest's RAM itself.
    pub(crate) image: String,
    pub(crate) later: Vec<String>,
    pub(crate) output: String,
    before: Snapshot,
    mounted: Option<PathBuf>,
}

/// What a path holds: nothing, a file (with an empty name), or a folder's files. Each is an inode and
/// a hash, as what arrives may be what was there.
pub(crate) type Snapshot = BTreeMap<String, (u64, u64)>;

impl Scene {
    pub(crate) fn new(stage: &Stage, plan: &Plan) -> io::Result<Scene> {
        let folder = stage.root.join(format!("{}", plan.seed));
        std::fs::create_dir(&folder)?;
        let template = stage.root.join(format!("template{}", plan.guest.template));
        let (guest, image) = match plan.guest.folder {
            true => {
                let guest = folder.join("guest");
                std::fs::create_dir(&guest)?;
                for name in ["guest.json", "device-state"] {
                    std::fs::copy(stage.root.join("folder").join(name), guest.join(name))?;
                }
                set_size(&guest.join("guest.json"), plan.pages())?;
                ("guest", "guest/pc.ram")
            }
            false => ("ram", "ram"),
        };
        copy_sparse(&template, &folder.join(image), |_, _| {})?;
        let mut scene = Scene {
            guest: guest.to_owned(),
            image: image.to_owned(),
            later: Vec::new(),
            output: "out".to_owned(),
            before: Snapshot::new(),
            mounted: None,
            folder,
        };
        if let Mode::Rounds(count) = plan.mode {
            scene.add_later(count, plan)?;
        }
        if let Disk::Small(kib) = plan.disk {
            scene.mount(kib)?;
        }
        if plan.old == Old::Something {
            scene.add_old(stage, plan.guest.folder)?;
        }
        scene.before = snapshot(&scene.path(&scene.output));
        Ok(scene)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The image whose RAM must arrive.
    pub(crate) fn last_image(&self) -> PathBuf {
        match self.later.last() {
            Some(later) if self.guest == self.image => self.path(later),
            Some(later) => self.path(later).join("pc.ram"),
            None => self.path(&self.image),
        }
    }

    /// Whether OUTPUT is as it was before.
    pub(crate) fn is_untouched(&self) -> bool {
        self.is_of_others() || snapshot(&self.path(&self.output)) == self.before
    }

    fn is_of_others(&self) -> bool {
        let output = std::fs::read(self.path(&self.output));
        output.is_ok_and(|bytes| bytes == OF_OTHERS)
    }

    /// The other program takes back what it put there: a folder does not replace a file.
    pub(crate) fn clear_of_others(&self) {
        if self.is_of_others() {
            let _ = std::fs::remove_file(self.path(&self.output));
        }
    }

    /// OUTPUT as it was before, for another run with it.
    pub(crate) fn note_output(&mut self) {
        self.before = snapshot(&self.path(&self.output));
    }

    /// What is in the run's folder and ought not to be there after it.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let known = |name: &str| {
            let log = [".out", ".err", ".code", ".hang"];
            log.iter().any(|end| name.ends_with(end))
                || ["ram", "guest", "records", "out", "out2", "small", "stream"].contains(&name)
                || self.later.iter().any(|later| later == name)
        };
        let mut names = names(&self.folder);
        if self.mounted.is_some() {
            names.extend(names_in(&self.folder, "small"));
        }
        if self.guest != self.image {
            let own = ["guest/guest.json", "guest/device-state", "guest/pc.ram"];
            let inside = names_in(&self.folder, "guest");
            names.extend(inside.into_iter().filter(|name| !own.contains(&&name[..])));
        }
        names.retain(|name| !known(name) && *name != self.output);
        names
    }

    /// As room allows: a small file system may be full of it.
    fn add_old(&self, stage: &Stage, is_folder: bool) -> io::Result<()> {
        let output = self.path(&self.output);
        if !is_folder {
            return std::fs::write(output, b"what was there before");
        }
        std::fs::create_dir(&output)?;
        let template = stage.root.join("folder");
        for name in ["guest.json", "device-state"] {
            std::fs::copy(template.join(name), output.join(name))?;
        }
        copy_sparse(
            &template.join("pc.ram"),
            &output.join("pc.ram"),
            |_, page| {
                page.fill(0);
            },
        )
    }

    fn add_later(&mut self, count: u64, plan: &Plan) -> io::Result<()> {
        let mut dice = Dice::new(plan.seed ^ 0x5eed);
        let mut last = self.path(&self.image);
        for number in 1..=count {
            let name = format!("later{number}");
            let (guest, image) = (self.path(&name), self.path(&name).join("pc.ram"));
            let image = match plan.guest.folder {
                true => {
                    std::fs::create_dir(&guest)?;
                    for name in ["guest.json", "device-state"] {
                        std::fs::copy(self.path("guest").join(name), guest.join(name))?;
                    }
                    image
                }
                false => guest,
            };
            copy_sparse(&last, &image, |_, page| match dice.below(12) {
                0 => page.fill(0),
                1 => page.fill(dice.below(256) as u8),
                2..5 => {
                    for _ in 0..=dice.below(20) {
                        page[dice.below(PAGE_SIZE as u64) as usize] = dice.below(256) as u8;
                    }
                }
                _ => {}
            })?;
            self.later.push(name);
            last = image;
        }
        Ok(())
    }

    /// Puts the output onto a file system of its own, which only this worker sees.
    fn mount(&mut self, kib: u64) -> io::Result<()> {
        let small = self.path("small");
        std::fs::create_dir(&small)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(&small)
            .stderr(Stdio::null())
            .status()?;
        if mounted.success() {
            self.mounted = Some(small);
        }
        self.output = "small/out".to_owned();
        Ok(())
    }

    /// From now on there is room for the output, which is elsewhere.
    pub(crate) fn unmount(&mut self) {
        if let Some(small) = self.mounted.take() {
            let _ = Command::new("umount").arg(small).status();
            "out".clone_into(&mut self.output);
        }
    }

    pub(crate) fn remove(mut self) {
        self.unmount();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The description of a guest names the size of its block; its digest is not checked by `send`.
fn set_size(json: &Path, pages: u64) -> io::Result<()> {
    let text = std::fs::read_to_string(json)?;
    let mut guest: serde_json::Value = serde_json::from_str(&text)?;
    guest["blocks"][0]["bytes"] = (pages * PAGE_SIZE as u64).into();
    std::fs::write(json, guest.to_string())
}

/// Copies an image, page by page; zero pages become holes.
fn copy_sparse(from: &Path, to: &Path, mut edit: impl FnMut(u64, &mut [u8])) -> io::Result<()> {
    let mut bytes = std::fs::read(from)?;
    let file = File::create(to)?;
    file.set_len(bytes.len() as u64)?;
    for (index, page) in (0..).zip(bytes.chunks_mut(PAGE_SIZE)) {
        edit(index, page);
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(page, index * PAGE_SIZE as u64)?;
        }
    }
    Ok(())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn names_in(folder: &Path, name: &str) -> Vec<String> {
    let inside = names(&folder.join(name));
    inside.iter().map(|file| format!("{name}/{file}")).collect()
}

pub(crate) fn snapshot(path: &Path) -> Snapshot {
    let state = |path: &Path| {
        let inode = std::fs::metadata(path).ok()?.ino();
        Some((inode, xxh3_64(&std::fs::read(path).ok()?)))
    };
    if let Some(file) = state(path) {
        return Snapshot::from([(String::new(), file)]);
    }
    let files = names(path).into_iter();
    files
        .filter_map(|name| Some((name.clone(), state(&path.join(&name))?)))
        .collect()
}
