//! Presets: ready-made choices of settings.

use super::axes::Axes;
use super::methods;

/// A ready-made choice of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Preset {
    /// A useful level or two of each method, without a limit on the link: under a minute for the
    /// synthetic guest on two cores.
    #[default]
    Quick,
    /// Every useful level.
    Levels,
    /// From one compression thread to twice the cores.
    Threads,
    /// From no limit down to 200 Mbit/s with a delay.
    Links,
    /// Delta caches; needs later images.
    Delta,
}

names!(
    "preset",
    Preset {
        Quick: "quick",
        Levels: "levels",
        Threads: "threads",
        Links: "links",
        Delta: "delta"
    }
);

impl Preset {
    /// The methods of the preset, for [`methods::parse`].
    pub fn methods(self) -> &'static str {
        match self {
            Preset::Quick => methods::QUICK,
            Preset::Levels => "none,lz4,zstd:1-12,zlib:1-9",
            Preset::Threads => "none,lz4,zstd:1,zlib:1",
            Preset::Links => "none,lz4,zstd:1,3,9,zlib:1",
            Preset::Delta => "none,lz4,zstd:1",
        }
    }

    /// Sets the axes of the preset on a machine of `cores` cores.
    pub fn apply(self, axes: &mut Axes, cores: usize) {
        match self {
            Preset::Quick | Preset::Levels => {}
            Preset::Threads => {
                let most = u8::try_from(cores.saturating_mul(2)).unwrap_or(u8::MAX);
                let doubled = std::iter::successors(Some(1_u8), |threads| threads.checked_mul(2));
                axes.compress_threads = doubled.take_while(|threads| *threads < most).collect();
                axes.compress_threads.push(most);
            }
            Preset::Links => {
                // All of these are valid, which a test asserts.
                let _ = axes.set("links", "unlimited,10Gbit,1Gbit,200Mbit/20ms");
            }
            Preset::Delta => {
                axes.xbzrle = vec![None, Some(16 << 20), Some(64 << 20), Some(256 << 20)];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps::Caps;
    use crate::params::Params;

    fn axes(list: &str) -> Axes {
        let methods = methods::parse(list, 1).expect("methods");
        Axes::of(methods, &Params::default(), &Caps::default())
    }

    #[test]
    fn presets_are_read_as_they_are_shown_and_make_valid_settings() {
        for preset in Preset::ALL {
            assert_eq!(preset.to_string().parse(), Ok(preset));
            let mut axes = axes(preset.methods());
            preset.apply(&mut axes, 3);
            let matrix = axes.matrix(true).expect("settings");
            assert!(!matrix.settings.is_empty() && matrix.notes.is_empty());
            for setting in &matrix.settings {
                assert_eq!(setting.apply(&Params::default()).validate(), Ok(()));
            }
        }
        assert!("slow".parse::<Preset>().is_err());
        let mut threads = axes("none");
        Preset::Threads.apply(&mut threads, 3);
        assert_eq!(threads.compress_threads, [1, 2, 4, 6]);
        let mut links = axes("none");
        Preset::Links.apply(&mut links, 1);
        assert_eq!(links.links.len(), 4);
    }
}
