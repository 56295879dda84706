//! Raw images: RAM from its first byte to its last, and nothing else. A memory-backend-file, a
//! pmemsave, a Firecracker memory file, a block of a guest folder.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::super::{ImageError, ImageFormat};
use super::flat::{Extent, FlatFile};
use crate::page::{PAGE_SIZE, PageRange};
use crate::sniff::{self, Content};

impl FlatFile {
    /// Opens and maps an image in `format`.
    ///
    /// # Errors
    /// [`ImageError::NotRam`]; a file that is missing, unreadable, empty, not a regular file, or not
    /// of whole pages.
    pub(crate) fn open(path: &Path, format: ImageFormat) -> Result<FlatFile, ImageError> {
        let file = File::options()
            .read(true)
            // A named pipe must be refused, and not wait for its writer.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(ImageError::io("open", path))?;
        if format == ImageFormat::Detect {
            refuse_what_is_not_ram(&file, path)?;
        }
        FlatFile::raw(file, path)
    }

    /// Maps a raw image that is open; `path` is what messages call it.
    ///
    /// # Errors
    /// A file that is empty, not a regular file, or not of whole pages, and the system's reasons.
    pub(crate) fn raw(file: File, path: &Path) -> Result<FlatFile, ImageError> {
        let metadata = file.metadata().map_err(ImageError::io("examine", path))?;
        let (path, size) = (path.to_owned(), metadata.len());
        if !metadata.is_file() {
            return Err(ImageError::NotAFile { path });
        }
        if size == 0 {
            return Err(ImageError::Empty { path });
        }
        if size % PAGE_SIZE as u64 != 0 {
            return Err(ImageError::NotWholePages { path, size });
        }
        let flat = FlatFile::new(file, path, whole(size / PAGE_SIZE as u64));
        // So that what cannot be mapped is refused before a peer has been asked for anything.
        flat.map()?;
        Ok(flat)
    }

    /// Makes `file`, which is empty, a raw image of zeros: all holes. It is mapped when that is
    /// first of use.
    ///
    /// # Errors
    /// The system's reason.
    pub(crate) fn new_raw(file: File, path: &Path, pages: u64) -> Result<FlatFile, ImageError> {
        file.set_len(pages.saturating_mul(PAGE_SIZE as u64))
            .map_err(ImageError::io("set the size of", path))?;
        Ok(FlatFile::new(file, path.to_owned(), whole(pages)))
    }
}

/// Refuses what begins like another format.
fn refuse_what_is_not_ram(file: &File, path: &Path) -> Result<(), ImageError> {
    let mut head = [0; sniff::HEAD];
    // What cannot be read here is not a regular file, or fails where its size is looked at.
    let len = file.read_at(&mut head, 0).unwrap_or(0);
    match Content::of(&head[..len]) {
        None => Ok(()),
        Some(content) => Err(ImageError::NotRam {
            path: path.to_owned(),
            content,
        }),
    }
}

/// Every byte of the file is RAM.
fn whole(pages: u64) -> Vec<Extent> {
    vec![Extent {
        pages: PageRange::between(0, pages),
        offset: 0,
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_a_raw_image_is_refused_by_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let refusal = |path: &Path| FlatFile::open(path, ImageFormat::Detect).unwrap_err();
        assert!(matches!(refusal(&path), ImageError::Io { .. }));
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(refusal(&path), ImageError::Empty { .. }));
        std::fs::write(&path, vec![1; PAGE_SIZE + 1]).unwrap();
        assert!(matches!(
            refusal(&path),
            ImageError::NotWholePages { size: 4097, .. }
        ));
        assert!(matches!(
            refusal(folder.path()),
            ImageError::NotAFile { .. }
        ));
        // It has no writer, and never will.
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert!(matches!(refusal(&pipe), ImageError::NotAFile { .. }));
    }
}
