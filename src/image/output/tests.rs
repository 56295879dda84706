use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::page::{PAGE_SIZE, PageIndex, PageRange};
use crate::partial::OutputError;

fn image(path: &Path, pages: u64, force: bool) -> Result<Output, ImageError> {
    let block = ("pc.ram".to_owned(), pages * PAGE_SIZE as u64);
    Output::image(path, &[block], force)
}

#[test]
fn an_output_that_is_not_committed_leaves_nothing_and_the_old_one_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    std::fs::write(&path, b"old").unwrap();
    assert!(matches!(
        image(&path, 4, false),
        Err(ImageError::Output(OutputError::Exists { .. }))
    ));
    let output = image(&path, 4, true).unwrap();
    let page = [7; PAGE_SIZE];
    output.blocks()[0].place(PageIndex(1), &page).unwrap();
    drop(output);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_partial_file_in_use_is_kept_and_one_of_a_killed_process_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let mut first = image(&path, 4, false).unwrap();
    assert!(matches!(
        image(&path, 4, false),
        Err(ImageError::Output(OutputError::Busy { .. }))
    ));
    first.commit().unwrap();
    drop(first);
    // The lock ends with the process that holds it, the mark does not.
    let partial = folder.path().join("out.partial");
    std::fs::write(&partial, b"left").unwrap();
    with_mode(&partial, 0o1600);
    image(&path, 4, true).unwrap().commit().unwrap();
    let committed = std::fs::metadata(&path).unwrap();
    assert_eq!((committed.len(), mode(&path)), (4 * 4096, 0o600));
}

fn with_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn what_is_not_ours_is_refused_at_the_partial_path_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (path, partial) = (dir.path().join("out"), dir.path().join("out.partial"));
    let refused = |what: &str| {
        for why in [
            line(Output::check(&path, true).unwrap_err()),
            line(image(&path, 4, true).unwrap_err()),
            line(Output::folder(&path, &two(), true).unwrap_err()),
        ] {
            assert!(
                why.contains("out.partial' is not a partial output of ramferry's: rename"),
                "{what}: {why}"
            );
        }
    };
    std::fs::write(&partial, b"precious").unwrap();
    for mode in [0o644, 0o600] {
        with_mode(&partial, mode);
        refused("a file");
    }
    assert_eq!(std::fs::read(&partial).unwrap(), b"precious");
    std::fs::remove_file(&partial).unwrap();

    rustix::fs::mkfifoat(rustix::fs::CWD, &partial, rustix::fs::Mode::RWXU).unwrap();
    refused("a named pipe");
    std::fs::remove_file(&partial).unwrap();

    std::os::unix::fs::symlink("nothing", &partial).unwrap();
    refused("a link");
    std::fs::remove_file(&partial).unwrap();

    std::fs::create_dir(&partial).unwrap();
    refused("an empty folder");
    std::fs::remove_dir(&partial).unwrap();

    let mut guest = Output::folder(&partial, &two(), false).unwrap();
    guest.commit().unwrap();
    drop(guest);
    assert_eq!(mode(&partial), 0o700);
    refused("a guest folder");
    assert_eq!(names(&partial).len(), 4);
}

#[test]
fn what_a_kill_leaves_has_the_mark_and_what_is_committed_has_not() {
    let dir = tempfile::tempdir().unwrap();
    let (path, partial) = (dir.path().join("out"), dir.path().join("out.partial"));
    for expected in [0o600, 0o640] {
        let mut output = image(&path, 4, true).unwrap();
        assert_eq!(mode(&partial), 0o1600);
        output.commit().unwrap();
        assert_eq!(mode(&path), expected);
        with_mode(&path, 0o640);
    }
    std::fs::remove_file(&path).unwrap();
    for expected in [0o700, 0o750] {
        let mut output = Output::folder(&path, &two(), true).unwrap();
        assert_eq!(mode(&partial), 0o1700);
        output.commit().unwrap();
        assert_eq!(mode(&path), expected);
        with_mode(&path, 0o750);
    }
    assert_eq!(names(dir.path()), ["out"]);
}

#[test]
fn what_is_created_at_the_output_meanwhile_gives_its_mode_to_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    for folder in [false, true] {
        // First nothing is there, then something else.
        for _ in 0..2 {
            let mut output = match folder {
                false => image(&path, 4, true),
                true => Output::folder(&path, &two(), true),
            }
            .unwrap();
            let other = dir.path().join("other");
            if folder {
                Output::folder(&other, &two(), true)
                    .unwrap()
                    .commit()
                    .unwrap();
                with_mode(&other.join("pc.ram"), 0o644);
                with_mode(&other, 0o755);
                if path.exists() {
                    std::fs::remove_dir_all(&path).unwrap();
                }
            } else {
                std::fs::write(&other, b"other").unwrap();
                with_mode(&other, 0o644);
            }
            std::fs::rename(&other, &path).unwrap();
            output.commit().unwrap();
            match folder {
                false => assert_eq!(mode(&path), 0o600),
                true => assert_eq!((mode(&path), mode(&path.join("pc.ram"))), (0o700, 0o600)),
            }
        }
        if !folder {
            std::fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn cleared_pages_read_as_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let output = image(&folder.path().join("out"), 40, false).unwrap();
    let block = &output.blocks()[0];
    block.place(PageIndex(0), &[9; 40 * PAGE_SIZE]).unwrap();
    block.clear(PageRange::between(1, 39)).unwrap();
    let mut back = vec![1; 40 * PAGE_SIZE];
    block.read(PageIndex(0), &mut back).unwrap();
    assert!(
        back[PAGE_SIZE..39 * PAGE_SIZE]
            .iter()
            .all(|&byte| byte == 0)
    );
    assert!(back[39 * PAGE_SIZE..].iter().all(|&byte| byte == 9));
}

fn two() -> Vec<(String, u64)> {
    [("pc.ram", 8), ("vga/vram", 2)]
        .map(|(name, pages)| (name.to_owned(), pages * PAGE_SIZE as u64))
        .to_vec()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn line(error: ImageError) -> String {
    crate::Error::from(error).one_line()
}

#[test]
fn a_folder_that_is_not_committed_leaves_nothing_and_the_old_one_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    drop(Output::folder(&path, &two(), false).unwrap());
    assert!(names(dir.path()).is_empty());
    Output::folder(&path, &two(), false)
        .unwrap()
        .commit()
        .unwrap();
    let before = names(&path);
    assert_eq!(
        before,
        ["device-state", "guest.json", "pc.ram", "vga%2Fvram"]
    );
    assert!(matches!(
        Output::check(&path, false),
        Err(ImageError::Output(OutputError::Exists { .. }))
    ));
    let json = std::fs::read(path.join("guest.json")).unwrap();
    let output = Output::folder(&path, &two()[..1], true).unwrap();
    assert!(matches!(
        Output::folder(&path, &two(), true),
        Err(ImageError::Output(OutputError::Busy { .. }))
    ));
    drop(output);
    assert_eq!(names(dir.path()), ["out"]);
    assert_eq!(std::fs::read(path.join("guest.json")).unwrap(), json);
    let mut output = Output::folder(&path.join(""), &two()[..1], true).unwrap();
    assert_eq!(names(dir.path()), ["out", "out.partial"]);
    output.commit().unwrap();
    assert_eq!(names(&path), ["device-state", "guest.json", "pc.ram"]);
    assert_eq!(names(dir.path()), ["out"]);
}

#[test]
fn a_folder_whose_files_were_replaced_meanwhile_does_not_become_the_output() {
    for name in ["pc.ram", "vga%2Fvram", "device-state"] {
        for by_another in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("out");
            let mut output = Output::folder(&path, &two(), false).unwrap();
            let file = dir.path().join("out.partial").join(name);
            let bytes = std::fs::metadata(&file).unwrap().len();
            std::fs::remove_file(&file).unwrap();
            if by_another {
                let other = File::create(&file).unwrap();
                other.set_len(bytes).unwrap();
            }
            let why = line(output.commit().unwrap_err());
            let expected = format!("'{name}' was replaced or removed by another process");
            assert!(why.contains(&expected), "{why}");
            assert!(!path.exists());
        }
    }
}

#[test]
fn a_folder_with_other_files_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("thesis"), b"years").unwrap();
    for force in [false, true] {
        assert!(
            line(Output::check(&path, force).unwrap_err())
                .contains("is a folder, which cannot be replaced")
        );
    }
    std::fs::remove_file(path.join("thesis")).unwrap();
    std::fs::remove_dir(&path).unwrap();
    Output::folder(&path, &two(), false)
        .unwrap()
        .commit()
        .unwrap();
    std::fs::write(path.join("notes"), b"mine").unwrap();
    let why = line(Output::check(&path, true).unwrap_err());
    assert!(why.contains("it contains 'notes'"), "{why}");
    std::fs::remove_file(path.join("notes")).unwrap();
    // A file created there while the guest is received is found too.
    let mut output = Output::folder(&path, &two(), true).unwrap();
    std::fs::write(path.join("notes"), b"mine").unwrap();
    let why = line(output.commit().unwrap_err());
    assert!(why.contains("it contains 'notes'"), "{why}");
    drop(output);
    assert_eq!(names(dir.path()), ["out"]);
    assert_eq!(std::fs::read(path.join("notes")).unwrap(), b"mine");
    // A partial folder with another program's file.
    std::fs::remove_file(path.join("notes")).unwrap();
    let partial = dir.path().join("out.partial");
    std::fs::create_dir(&partial).unwrap();
    std::fs::write(partial.join("notes"), b"mine").unwrap();
    with_mode(&partial, 0o1700);
    let why = line(Output::folder(&path, &two(), true).unwrap_err());
    assert!(why.contains("it contains 'notes'"), "{why}");
    assert_eq!(names(&partial), ["notes"]);
}

#[test]
fn a_partial_folder_of_a_killed_process_is_replaced_by_any_output() {
    let dir = tempfile::tempdir().unwrap();
    let (path, partial) = (dir.path().join("out"), dir.path().join("out.partial"));
    for folder_comes in [true, false] {
        let other = dir.path().join("other");
        std::mem::forget(Output::folder(&other, &two(), false).unwrap());
        // The lock ends with the process that holds it.
        std::fs::create_dir(&partial).unwrap();
        with_mode(&partial, 0o1700);
        let left = dir.path().join("other.partial");
        for name in names(&left) {
            std::fs::copy(left.join(&name), partial.join(&name)).unwrap();
        }
        std::fs::remove_dir_all(&left).unwrap();
        if folder_comes {
            drop(Output::folder(&path, &two(), false).unwrap());
        } else {
            drop(image(&path, 4, false).unwrap());
        }
        assert!(names(dir.path()).is_empty());
    }
}

#[test]
fn a_file_does_not_replace_a_folder_or_the_other_way_round() {
    let dir = tempfile::tempdir().unwrap();
    let (file, folder) = (dir.path().join("file"), dir.path().join("folder"));
    std::fs::write(&file, b"old").unwrap();
    Output::folder(&folder, &two(), false)
        .unwrap()
        .commit()
        .unwrap();
    Output::check(&file, true).unwrap();
    Output::check(&folder, true).unwrap();
    let why = line(Output::folder(&file, &two(), true).unwrap_err());
    assert!(why.contains("is a file"), "{why}");
    let why = line(Output::only(&folder, &two(), "pc.ram", true).unwrap_err());
    assert!(why.contains("is a guest folder"), "{why}");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&folder, &link).unwrap();
    assert!(
        Output::folder(&link, &two(), true).is_err(),
        "a link is a file"
    );
}

#[test]
fn one_block_is_kept_and_the_others_are_proven_and_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let why = line(Output::only(&path, &two(), "vga", false).unwrap_err());
    assert_eq!(
        why,
        "the guest has no block 'vga'; its blocks are pc.ram, vga/vram"
    );
    let why = line(Output::image(&path, &two(), false).unwrap_err());
    assert!(why.contains("--block (pc.ram, vga/vram)"), "{why}");
    let mut output = Output::only(&path, &two(), "vga/vram", false).unwrap();
    assert_eq!(names(dir.path()), ["out.partial"]);
    let page = [7; PAGE_SIZE];
    let mut expected = 0_u128;
    for block in output.blocks() {
        block.place(PageIndex(1), &page).unwrap();
        expected = expected.wrapping_add(block.seed().hash(PageIndex(1), &page));
    }
    output.append_device_state(b"state").unwrap();
    assert_eq!(output.device_state_sum().0, 5);
    assert!(output.device_state().unwrap().is_none());
    assert_eq!(output.sum_hashes().unwrap().0, expected);
    assert_eq!(output.blocks()[1].key(PageIndex(0)), 8);
    output.commit().unwrap();
    assert_eq!(names(dir.path()), ["out"]);
    let held = std::fs::read(&path).unwrap();
    assert_eq!(held, [[0; PAGE_SIZE], page].concat());
    // For file systems without unnamed files.
    let mut file = place::named_and_unlinked(dir.path()).unwrap();
    std::io::Write::write_all(&mut file, b"x").unwrap();
    assert_eq!(names(dir.path()), ["out"]);
}

#[test]
fn a_path_without_a_file_name_is_refused() {
    for path in [".", "..", "/", ""] {
        for force in [false, true] {
            assert!(Output::check(Path::new(path), force).is_err(), "{path}");
        }
    }
}

#[test]
fn a_guest_with_invalid_blocks_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let block = |name: &str, bytes| (name.to_owned(), bytes);
    for (blocks, why) in [
        (vec![], "no block"),
        (vec![block("a", 0)], "'a' has 0 bytes"),
        (vec![block("a", 4097)], "'a' has 4097 bytes"),
        (vec![block("a", 4096), block("a", 4096)], "'a' occurs twice"),
        (vec![block("", 4096)], "name has 0 bytes"),
        (vec![block(&"x".repeat(256), 4096)], "name has 256 bytes"),
        (vec![block("a", u64::MAX - 4095)], "at most 1 PiB"),
        (vec![block("a", 4096); 1025], "at most 1024"),
    ] {
        let error = line(Output::folder(&path, &blocks, false).unwrap_err());
        assert!(error.contains(why), "{why:?} is not in {error:?}");
    }
    let control: Vec<_> = (0..1024)
        .map(|n| (format!("{}{n:04}", "\u{1}".repeat(251)), 4096))
        .collect();
    let error = line(Output::folder(&path, &control, false).unwrap_err());
    assert!(error.contains("guest.json is longer than"), "{error}");
    assert!(names(dir.path()).is_empty());
}
