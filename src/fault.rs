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
    Prove,
    Finish,
    /// At the source, when the destination has proven its copy.
    Proven,
    /// At the destination, when the source has let go.
    Commit,
}

/// The faults of one migration.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    #[cfg(test)]
    pub(crate) armed: std::sync::Mutex<Option<Armed>>,
    /// What happens when a site is passed for the first time.
    #[cfg(test)]
    pub(crate) mischief: std::sync::Mutex<Option<(Site, Mischief)>>,
}

/// Something that a test does unnoticed by the stages.
#[cfg(test)]
pub(crate) struct Mischief(pub(crate) Box<dyn FnOnce() + Send>);

#[cfg(test)]
impl std::fmt::Debug for Mischief {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mischief")
    }
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
        let mischief = self.mischief.lock().unwrap().take_if(|(at, _)| *at == site);
        if let Some((_, Mischief(act))) = mischief {
            act();
        }
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
