//! What to send, and where to.

use std::path::PathBuf;
use std::sync::Arc;

use crate::dirty::Tracker;
use crate::error::{Error, Kind, Result};
use crate::image::{Guest, ImageFormat, Later, conflict_with_image};
use crate::partial::partial_path;
use crate::transport::Address;
use crate::wire::Format;
use crate::writer::{Still, WriterChoice};

/// What to send, and where to.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The guest: a raw image of its RAM, or a guest folder.
    pub(crate) image: PathBuf,
    /// What to take the image and the later snapshots for.
    pub(crate) image_format: ImageFormat,
    /// Whether processes that can write the images are known not to, as their guest is paused.
    pub(crate) paused: bool,
    /// Later snapshots of the same guest's RAM: a delta round each.
    pub(crate) then: Vec<Later>,
    /// The destination.
    pub(crate) address: Address,
    /// Whether to go on without what the destination lacks: with another method (zlib if it has
    /// that), without deltas. What was left out is in the [report](crate::stats::Report::dropped).
    /// Without effect, but with a notice, where there is no destination to ask.
    pub(crate) fallback: bool,
    /// Whether an existing stored stream is replaced.
    pub(crate) force: bool,
    /// Whether such a file is on disk when this is done.
    pub(crate) sync: bool,
    /// The wire format.
    pub(crate) format: Format,
    /// The block name of a raw image; [`crate::image::RAW_BLOCK_NAME`] unless given.
    pub(crate) block: Option<String>,
    /// The machine type of a raw image, which the qemu wire announces; [`super::DEFAULT_MACHINE`]
    /// unless given.
    pub(crate) machine: Option<String>,
    /// How to follow a guest whose RAM is being written during the migration.
    pub(crate) live: Option<Live>,
}

/// A migration while the guest's RAM is being written.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Live {
    /// How to stop the writer for the last round.
    pub writer: WriterChoice,
    /// How to learn what it changed; by comparing with what was sent unless given.
    pub tracker: Option<Arc<dyn Tracker>>,
    /// Whether a guest that was handed over before is taken, because its destination does not run it.
    pub again: bool,
}

impl Live {
    /// A migration that stops this writer, and learns what it changed by comparing.
    pub fn new(writer: WriterChoice) -> Live {
        Live {
            writer,
            tracker: None,
            again: false,
        }
    }

    /// Takes a guest that was handed over before, which is refused otherwise: only if its destination
    /// does not run it.
    #[must_use]
    pub fn again(mut self, again: bool) -> Live {
        self.again = again;
        self
    }

    /// Learns from `tracker` what the writer changed.
    #[must_use]
    pub fn tracked_by(mut self, tracker: Arc<dyn Tracker>) -> Live {
        self.tracker = Some(tracker);
        self
    }
}

impl Request {
    /// One image, on the native wire, with every capability that is on by default.
    pub(crate) fn new(image: impl Into<PathBuf>, address: Address) -> Request {
        Request {
            image: image.into(),
            image_format: ImageFormat::Detect,
            paused: false,
            then: Vec::new(),
            address,
            fallback: false,
            force: false,
            sync: true,
            format: Format::Native,
            block: None,
            machine: None,
            live: None,
        }
    }

    /// Whether rounds may follow the first.
    pub(super) fn has_later_rounds(&self) -> bool {
        self.live.is_some() || !self.then.is_empty()
    }

    /// Whether the guest runs on here, so that what is sent is a copy.
    pub(super) fn guest_stays(&self) -> bool {
        let writer = self.live.as_ref().map(|live| &live.writer);
        matches!(writer, Some(WriterChoice::Fuzzy))
    }

    /// Opens the guest, and checks that later snapshots can be opened and fit it. Returns it with all of
    /// their files.
    ///
    /// `note` is called with what the user should know of them.
    pub(super) fn open_guest(&self, note: impl Fn(String)) -> Result<(Arc<Guest>, Still)> {
        self.keep_images()?;
        let mut guest = Guest::open_as(&self.image, self.image_format)?;
        if let Some(name) = &self.block {
            guest.name_block(name)?;
        }
        let guest = Arc::new(guest);
        let mut files = Still::to_send(self.paused);
        files.add(guest.ram())?;
        let mut last = Arc::clone(&guest);
        for later in &self.then {
            let now = Arc::new(last.open_later(later)?);
            files.add(now.ram())?;
            if later.is_diff && later.has_no_holes() {
                note(format!(
                    "'{}' has no holes, so it replaces every page: if it was copied, copy it with its holes (cp \
                     --sparse=auto)",
                    later.path.display()
                ));
            }
            let count = last.ram().pages_lost_in(now.ram())?;
            if count > 0 {
                let pages = if count == 1 { "page" } else { "pages" };
                note(format!(
                    "'{}' has holes in place of {count} {pages} of the image before it, which become zero; if \
                     holes mean unchanged pages, as in Firecracker's diffs, use --then-diff",
                    later.path.display()
                ));
            }
            last = now;
        }
        if self.live.is_some() && !self.then.is_empty() {
            let what = "a live migration takes no later images (--then, --then-diff): it finds later changes itself";
            return Err(Error::new(Kind::Usage, what));
        }
        if self.live.is_some() && self.paused {
            let what =
                "a live migration stops the writer itself: give its paused guest with --paused-ok";
            return Err(Error::new(Kind::Usage, what));
        }
        Ok((guest, files))
    }

    /// A stored stream may not replace an image that it is made from, not even by force.
    fn keep_images(&self) -> Result<()> {
        let Address::File(path) = &self.address else {
            return Ok(());
        };
        let later = self.then.iter().map(|later| &later.path);
        let partial = partial_path(path);
        for image in later.chain([&self.image]) {
            let what = match conflict_with_image(path, image) {
                Some(what) => what,
                None if conflict_with_image(&partial, image).is_some() => {
                    "would be written over an image that is to be sent: rename that image"
                }
                None => continue,
            };
            return Err(Error::new(Kind::Usage, format!("{} {what}", self.address)));
        }
        Ok(())
    }
}
