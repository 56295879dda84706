//! Who may use an output, and the mark by which a partial one is told from any other file.
//!
//! **The mark** is a mode that no other program gives a file: private and sticky. A file has it from the
//! moment at which it exists, every file system with Unix modes keeps it, and on a regular file or a
//! private folder the sticky bit means nothing. What does not have it is never removed.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::folder_of;

/// The mode of a file that holds guest RAM.
pub(crate) const PRIVATE: u32 = 0o600;
/// That of a folder.
pub(crate) const PRIVATE_FOLDER: u32 = 0o700;
/// What the mode of a partial file or folder has beside it.
pub(crate) const MARK: u32 = 0o1000;

/// The owner and the mode of what existed at OUTPUT when the partial was made. What replaces it gets
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    device: u64,
    inode: u64,
    user: u32,
    group: u32,
    mode: u32,
}

impl Access {
    /// Of the file or folder at a path, if guest RAM may get them.
    pub(crate) fn of(path: &Path) -> Option<Access> {
        let found = std::fs::symlink_metadata(path).ok()?;
        let folder = std::fs::metadata(folder_of(path)).ok()?;
        is_kept(&found, &folder).then_some(Access {
            device: found.dev(),
            inode: found.ino(),
            user: found.uid(),
            group: found.gid(),
            mode: found.mode(),
        })
    }

    /// Whether `path` still names what they were taken from. What another process has put there is not
    /// what the user asked to replace.
    pub(crate) fn is_of(self, path: &Path) -> bool {
        let identity = |found: Metadata| (found.dev(), found.ino());
        let found = std::fs::symlink_metadata(path).map(identity);
        found.is_ok_and(|found| found == (self.device, self.inode))
    }

    /// Gives them to `new`, which keeps its mark. If the owner cannot be kept, other users get no access:
    /// the mode was not meant for them.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn give(self, new: &File) -> io::Result<()> {
        let now = new.metadata()?;
        let is_kept = (self.user, self.group) == (now.uid(), now.gid())
            || std::os::unix::fs::fchown(new, Some(self.user), Some(self.group)).is_ok();
        let allowed = if is_kept { 0o777 } else { 0o700 };
        // The owner must be able to use it, whatever the old mode was.
        let owner = match now.is_dir() {
            true => PRIVATE_FOLDER,
            false => PRIVATE,
        };
        let mark = now.mode() & MARK;
        new.set_permissions(Permissions::from_mode(self.mode & allowed | owner | mark))
    }
}

/// Whether what replaces the file or folder at OUTPUT belongs to this user alone, though that belongs
/// to another user.
pub(crate) fn loses_access(output: &Path) -> bool {
    let found = std::fs::symlink_metadata(output);
    found.is_ok_and(|found| !found.is_symlink()) && Access::of(output).is_none()
}

/// In a folder where others may create files, one that belongs to another user proves nothing: it may
/// have been put there to get the RAM. So may another name of a file of this user's that all may read.
fn is_kept(found: &Metadata, folder: &Metadata) -> bool {
    const OTHERS_WRITE: u32 = 0o022;
    let is_own = found.uid() == rustix::process::geteuid().as_raw();
    let is_own = is_own && (found.is_dir() || found.nlink() == 1);
    !found.is_symlink() && (is_own || folder.mode() & OTHERS_WRITE == 0)
}

/// Whether it is a partial file or folder: one that a process left, unless it is locked.
pub(crate) fn is_marked(found: &Metadata) -> bool {
    // A folder inherits the set-group-ID bit of the one that it is made in.
    const INHERITED: u32 = 0o2000;
    if found.is_dir() {
        return found.mode() & 0o7777 & !INHERITED == PRIVATE_FOLDER | MARK;
    }
    found.is_file() && found.mode() & 0o7777 == PRIVATE | MARK
}

/// Marks what was OUTPUT and is to be removed, which others may not use any more either.
///
/// # Errors
/// I/O errors.
pub(crate) fn mark(old: &File) -> io::Result<()> {
    old.set_permissions(Permissions::from_mode(PRIVATE_FOLDER | MARK))
}

/// Takes the mark off what has its name. Until then a kill leaves either a partial that is known for
/// one, or OUTPUT with a bit that means nothing; so a failure is none of the commit.
pub(crate) fn unmark(new: &File) {
    let unmarked = new
        .metadata()
        .map(|now| Permissions::from_mode(now.mode() & 0o7777 & !MARK));
    let _ = unmarked.and_then(|mode| new.set_permissions(mode));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_a_private_sticky_file_or_folder_is_marked() {
        let dir = tempfile::tempdir().unwrap();
        let (file, folder) = (dir.path().join("file"), dir.path().join("folder"));
        std::fs::write(&file, b"").unwrap();
        std::fs::create_dir(&folder).unwrap();
        let marked = |path: &Path, mode| {
            with_mode(path, mode);
            is_marked(&std::fs::symlink_metadata(path).unwrap())
        };
        assert!(marked(&file, 0o1600) && marked(&folder, 0o1700));
        for mode in [0o600, 0o644, 0o1644, 0o1700, 0o1777] {
            assert!(!marked(&file, mode), "a file with {mode:o}");
        }
        assert!(marked(&folder, 0o3700), "in a shared folder");
        for mode in [0o700, 0o755, 0o1600, 0o1777] {
            assert!(!marked(&folder, mode), "a folder with {mode:o}");
        }
        with_mode(&folder, 0o700);
    }

    #[test]
    fn the_access_of_another_users_file_is_kept_only_where_others_cannot_create_it() {
        if !rustix::process::geteuid().is_root() {
            println!("NOT TRIED: only root can give files away");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        std::fs::write(&ours, b"").unwrap();
        std::fs::write(&theirs, b"").unwrap();
        std::os::unix::fs::chown(&theirs, Some(12_345), Some(12_345)).unwrap();
        for (mode, kept) in [(0o755, true), (0o1777, false), (0o775, false)] {
            with_mode(dir.path(), mode);
            assert!(Access::of(&ours).is_some(), "{mode:o}");
            assert_eq!(Access::of(&theirs).is_some(), kept, "{mode:o}");
            assert_eq!(loses_access(&theirs), !kept, "{mode:o}");
        }
        with_mode(dir.path(), 0o1777);
        std::fs::hard_link(&ours, dir.path().join("name")).unwrap();
        assert_eq!(Access::of(&ours), None, "it has another name");
        with_mode(dir.path(), 0o700);
    }

    #[test]
    fn access_is_that_of_one_file_and_given_before_the_mark_is_taken_off() {
        let dir = tempfile::tempdir().unwrap();
        let (out, new) = (dir.path().join("out"), dir.path().join("new"));
        std::fs::write(&out, b"old").unwrap();
        with_mode(&out, 0o644);
        let access = Access::of(&out).unwrap();
        let file = File::create(&new).unwrap();
        with_mode(&new, 0o1600);
        assert!(access.is_of(&out));
        access.give(&file).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o1644);
        unmark(&file);
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o644);
        std::fs::rename(&new, &out).unwrap();
        assert!(!access.is_of(&out));
    }
}
