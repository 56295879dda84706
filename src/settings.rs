//! How a migration is done: the parameters and capabilities of one end.

use crate::caps::Caps;
use crate::params::Params;

/// The parameters ("how much", "how") and capabilities ("whether") of one end of a migration.
///
/// ```
/// use ramferry::Settings;
///
/// let mut settings = Settings::default();
/// settings.params.set_text("compress-method", "zstd")?;
/// settings.caps.set("xbzrle", false)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The value of every parameter.
    pub params: Params,
    /// Which capabilities are on.
    pub caps: Caps,
}

impl Settings {
    /// Both, as given.
    pub fn new(params: Params, caps: Caps) -> Settings {
        Settings { params, caps }
    }
}

impl From<Params> for Settings {
    fn from(params: Params) -> Settings {
        Settings::new(params, Caps::default())
    }
}
