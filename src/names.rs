//! Names of an enum's values: one list for `--help`, error messages, JSON and reading them back.

use crate::text::Quoted;

/// Gives an enum `ALL`, `name()` and `Display`; with a word for what it is, also `FromStr`, whose
/// error ([`UnknownName`]) lists the names.
///
/// ```ignore
/// names!("wire format", Format { Native: "native", Qemu: "qemu" });
/// ```
macro_rules! names {
    ($type:ident { $($variant:ident: $name:literal),+ $(,)? }) => {
        impl $type {
            /// Every value, in order.
            pub const ALL: [$type; [$($name),+].len()] = [$($type::$variant),+];

            /// The name, as `Display` and `FromStr` have it.
            pub const fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $name),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
    ($what:literal, $type:ident { $($variant:ident: $name:literal),+ $(,)? }) => {
        names!($type { $($variant: $name),+ });

        impl std::str::FromStr for $type {
            type Err = $crate::names::UnknownName;

            fn from_str(name: &str) -> Result<$type, $crate::names::UnknownName> {
                $type::ALL.into_iter().find(|value| value.name() == name).ok_or_else(|| {
                    $crate::names::UnknownName::new($what, name, &[$($name),+])
                })
            }
        }
    };
}

/// A name that none of the allowed values has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {}: allowed are {}", Quoted(.given), list(.allowed, "and"))]
pub struct UnknownName {
    what: &'static str,
    given: String,
    allowed: &'static [&'static str],
}

impl UnknownName {
    pub(crate) fn new(
        what: &'static str,
        given: &str,
        allowed: &'static [&'static str],
    ) -> UnknownName {
        UnknownName {
            what,
            given: given.to_owned(),
            allowed,
        }
    }

    /// The allowed names as a phrase: `zlib, gzip or none`.
    pub fn allowed(&self) -> String {
        list(self.allowed, "or")
    }
}

fn list(names: &[&str], last: &str) -> String {
    match names {
        [names @ .., end] if !names.is_empty() => format!("{} {last} {end}", names.join(", ")),
        _ => names.concat(),
    }
}
