//! Faults on purpose: tests make a stage fail or panic at a batch of their choice.
//!
//! Outside of tests this is nothing at all.

use crate::error::Error;

/// Where a fault can be injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) enum Site {
    Scan,
    Encode,
    Send,
    Receive,
    Decode,
    Finish,
}

/// The faults of one migration.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    #[cfg(test)]
    pub(crate) armed: std::sync::Mutex<Option<Armed>>,
}

/// A fault that waits for its moment.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Armed {
    pub(crate) site: Site,
    /// How many times the site is passed before.
    pub(crate) after: u32,
    pub(crate) panics: bool,
}

impl Faults {
    /// Called by each stage for each batch.
    #[cfg(not(test))]
    #[inline(always)]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    pub(crate) fn check(&self, _site: Site) -> Result<(), Error> {
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn check(&self, site: Site) -> Result<(), Error> {
        let due = {
            let mut armed = self.armed.lock().unwrap();
            match armed.as_mut() {
                Some(fault) if fault.site == site && fault.after == 0 => armed.take(),
                Some(fault) if fault.site == site => {
                    fault.after -= 1;
                    None
                }
                _ => None,
            }
        };
        match due {
            None => Ok(()),
            Some(fault) if fault.panics => panic!("an injected panic"),
            Some(_) => Err(Error::new(crate::error::Kind::Failed, "an injected error")),
        }
    }
}
