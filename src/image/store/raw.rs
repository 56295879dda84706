//! Raw images, which are RAM from the first byte to the last: a memory-backend-file, a pmemsave, a
//! Firecracker memory file, a block of a guest folder.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::super::{ImageError, ImageFormat};
use super::flat::{Extent, FlatFile};
use crate::page::{PAGE_SIZE, PageRange};
use crate::sniff::{self, Content};
use crate::special;

impl FlatFile {
    /// Opens and maps an image in `format`.
    ///
    /// # Errors
    /// [`ImageError::NotRam`]; a file that is missing, unreadable, empty, neither a regular file nor
    /// a block device, or not of whole pages.
    pub(crate) fn open(path: &Path, format: ImageFormat) -> Result<FlatFile, ImageError> {
        let file =
            special::open_to_read(path).map_err(|error| ImageError::cannot_open(path, error))?;
        if format == ImageFormat::Detect {
            refuse_what_is_not_ram(&file, path)?;
        }
        FlatFile::raw(file, path)
    }

    /// Maps an open raw image. `path` is for messages.
    ///
    /// # Errors
    /// A file that is empty, neither a regular file nor a block device, or not of whole pages, and
    /// I/O errors.
    pub(crate) fn raw(file: File, path: &Path) -> Result<FlatFile, ImageError> {
        let metadata = file.metadata().map_err(ImageError::io("examine", path))?;
        if !metadata.is_file() && !special::is_device(&metadata) {
            return Err(ImageError::not_an_image(path, &metadata));
        }
        let size = special::size(&file).map_err(ImageError::io("examine", path))?;
        let path = path.to_owned();
        if let Some(file_system) = special::pseudo_file_system(&path).filter(|_| metadata.is_file())
        {
            return Err(ImageError::Pseudo { path, file_system });
        }
        if size == 0 {
            return Err(ImageError::Empty { path });
        }
        if size % PAGE_SIZE as u64 != 0 {
            return Err(ImageError::NotWholePages { path, size });
        }
        let flat = FlatFile::new(file, path, whole(size / PAGE_SIZE as u64));
        // Now, so that an image that cannot be mapped is refused before connecting to a peer.
        flat.map()?;
        Ok(flat)
    }

    /// The first pages of a block device, which has at least as many.
    pub(crate) fn front_of(device: File, path: &Path, pages: u64) -> FlatFile {
        FlatFile::new(device, path.to_owned(), whole(pages))
    }

    /// Makes `file`, which is empty, a raw image of zeros, all holes. It is mapped on first use.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn new_raw(file: File, path: &Path, pages: u64) -> Result<FlatFile, ImageError> {
        file.set_len(pages.saturating_mul(PAGE_SIZE as u64))
            .map_err(ImageError::io("set the size of", path))?;
        Ok(FlatFile::new(file, path.to_owned(), whole(pages)))
    }
}

/// Refuses a file that begins like another format.
fn refuse_what_is_not_ram(file: &File, path: &Path) -> Result<(), ImageError> {
    let mut head = [0; sniff::HEAD];
    // If this fails, the file is not a regular one, or its size cannot be examined: errors that
    // come next.
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
            ImageError::NotAnImage { .. }
        ));
        // It never has a writer.
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert!(matches!(refusal(&pipe), ImageError::NotAnImage { .. }));
    }
}
