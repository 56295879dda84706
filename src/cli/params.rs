//! The command line's options for parameters and capabilities, made from their tables.
//!
//! Each parameter of [`crate::params::TABLE`] that a command has use for becomes `--NAME VALUE`
//! with a help text made from its row; `--capability NAME=on|off` sets a capability. A command
//! takes them all with `#[command(flatten)]` and one of [`SourceArgs`], [`DestinationArgs`] and
//! [`BenchParams`].

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

use clap::builder::{TypedValueParser, UnknownArgumentValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::caps::{Capability, Caps};
use crate::error::{Error, Kind};
use crate::params::{
    self, BenchUse, ParamError, Parameter, Params, Side, TABLE, TypedParam, typed,
};
use crate::text::Quoted;
use crate::transport::Address;

const CAPABILITY: &str = "capability";
/// The parameter that `compression` may contradict. On the command line it may have a level:
/// `zstd:3`.
const METHOD: &str = "compress-method";
const LEVEL: &str = "compress-level";
const BANDWIDTH: &str = "max-bandwidth";

/// Below this, a rate without a unit is more likely a slip than a limit in bytes per second.
const SLOW: u64 = 64 << 10;

/// Options of other tools and commands, and what they are called here.
const ELSEWHERE: [(&str, &str); 3] = [
    ("method", "--compress-method"),
    ("level", "--compress-level"),
    ("threads", "--compress-threads"),
];

/// The options of one side's parameters, or of both sides', and what they were set to.
#[derive(Debug, Clone, Default)]
pub(super) struct ParamArgs<const SOURCE: bool, const DESTINATION: bool, const LISTED: bool = false>
{
    params: Params,
    /// What is to be used, if that was given at all at once, and the method if it was given too.
    compression: Vec<TypedParam>,
    /// As they were given, and checked.
    settings: Vec<String>,
    /// A bandwidth that was given without a unit, and looks like a slip.
    slow: Option<u64>,
    /// Whether the method came with its level.
    has_level: bool,
}

/// Options for a command that sends.
pub(super) type SourceArgs = ParamArgs<true, false>;
/// Options for a command that receives.
pub(super) type DestinationArgs = ParamArgs<false, true>;
/// Options for a command that does both, and has options of its own for the parameters in [`LISTS`]
/// and none for those that mean nothing in a comparison.
pub(super) type BenchParams = ParamArgs<true, true, true>;

/// Parameters of which a comparison takes lists.
const LISTS: [&str; 6] = [
    "compress-threads",
    "decompress-threads",
    "batch-pages",
    "connections",
    "zlib-engine",
    "link",
];

impl<const SOURCE: bool, const DESTINATION: bool, const LISTED: bool>
    ParamArgs<SOURCE, DESTINATION, LISTED>
{
    /// What was set, capabilities over those in `caps`, checked as a whole. Each value on its own
    /// was checked when it was read, but clap cannot report what does not fit together without
    /// also printing its usage text.
    ///
    /// # Errors
    /// Of kind [`Kind::Usage`] if parameters or capabilities do not fit together.
    pub(super) fn into_parts(self, mut caps: Caps) -> Result<(Params, Caps), Error> {
        let mut params = self.params;
        typed::apply(&self.compression, &mut params, &mut caps)
            .map_err(|error| Error::new(Kind::Usage, error))?;
        let chosen = caps;
        for setting in &self.settings {
            caps.set_text(setting)
                .map_err(|error| Error::new(Kind::Usage, error))?;
        }
        if typed::switches_caps(&self.compression) {
            check_agreement(&self.compression, chosen, caps)?;
        }
        match caps.conflicts() {
            Some(conflict) => Err(Error::new(Kind::Usage, conflict)),
            None => Ok((params, caps)),
        }
    }

    /// What the user may not have meant.
    pub(super) fn note(&self) -> Option<String> {
        let bytes = self.slow?;
        Some(format!(
            "note: --{BANDWIDTH} {bytes} is {bytes} bytes per second; write {bytes}MiB or \
             {bytes}Mbit for more"
        ))
    }

    /// The rows that become options.
    fn rows() -> impl Iterator<Item = &'static Parameter> {
        let rows = TABLE.iter().filter(|row| !(LISTED && is_left_out(row)));
        rows.filter(|row| match row.side {
            Side::Source => SOURCE,
            Side::Destination => DESTINATION,
            Side::Both => SOURCE || DESTINATION,
        })
    }
}

impl<const SOURCE: bool, const DESTINATION: bool, const LISTED: bool> Args
    for ParamArgs<SOURCE, DESTINATION, LISTED>
{
    fn augment_args(command: Command) -> Command {
        let hints = ELSEWHERE
            .into_iter()
            .filter(|_| SOURCE && !LISTED)
            .map(|(name, here)| {
                let hint = UnknownArgumentValueParser::suggest_arg(here);
                Arg::new(name).long(name).hide(true).value_parser(hint)
            });
        command
            .args(Self::rows().map(option))
            .args(hints)
            .arg(capability_option(LISTED))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const SOURCE: bool, const DESTINATION: bool, const LISTED: bool> FromArgMatches
    for ParamArgs<SOURCE, DESTINATION, LISTED>
{
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let is_given = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
        for row in Self::rows() {
            let values = matches.get_many::<String>(row.name).into_iter().flatten();
            for value in values {
                let (value, level) = with_level(row, value);
                if level.is_some() && is_given(LEVEL) {
                    let what = format!("--{METHOD} {value}:LEVEL and --{LEVEL} exclude each other");
                    return Err(refusal(what));
                }
                if row.name == LEVEL && !is_given(LEVEL) && self.has_level {
                    continue;
                }
                if let Some(level) = level {
                    self.params.set_text(LEVEL, level).map_err(refusal)?;
                    self.has_level = true;
                }
                if row.name == BANDWIDTH {
                    self.slow = value.parse().ok().filter(|bytes| (1..SLOW).contains(bytes));
                }
                if !row.repeatable {
                    self.params.set_text(row.name, value).map_err(refusal)?;
                } else if is_given(row.name) {
                    let param = TypedParam::from_text(row.name, value).map_err(refusal)?;
                    self.compression.push(param);
                }
            }
        }
        if Self::rows().any(|row| row.name == METHOD) && is_given(METHOD) {
            let method = self.params.compress_method.name();
            let param = TypedParam::from_text(METHOD, method).map_err(refusal)?;
            self.compression.push(param);
        }
        for setting in matches.get_many::<String>(CAPABILITY).into_iter().flatten() {
            self.settings.push(setting.clone());
        }
        Ok(())
    }
}

/// Whether a comparison has no such option, or one of its own.
fn is_left_out(row: &Parameter) -> bool {
    row.repeatable || LISTS.contains(&row.name) || row.in_bench == BenchUse::Unused
}

/// The options of the time limits, for a command that connects and moves nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct LimitArgs(Params);

impl LimitArgs {
    /// What was set. No two of them can contradict each other.
    pub(super) fn into_params(self) -> Params {
        self.0
    }

    fn rows() -> impl Iterator<Item = &'static Parameter> {
        let names = ["timeout", "connect-timeout"];
        TABLE.iter().filter(move |row| names.contains(&row.name))
    }
}

impl Args for LimitArgs {
    fn augment_args(command: Command) -> Command {
        // Here it is not a migration that fails.
        let silence = "How long the destination may be silent before this fails";
        command
            .args(Self::rows().map(option))
            .mut_arg("timeout", |arg| {
                let range = Self::rows().find(|row| row.name == "timeout");
                let range = range.map_or("", |row| row.range);
                arg.help(silence)
                    .long_help(format!("{silence}.\n\nAllowed: {range}."))
            })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for LimitArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for row in Self::rows() {
            if let Some(value) = matches.get_one::<String>(row.name) {
                self.0.set_text(row.name, value).map_err(refusal)?;
            }
        }
        Ok(())
    }
}

/// A row's option.
fn option(row: &'static Parameter) -> Arg {
    let range = row.range;
    let running = if row.runtime {
        "Can be changed during a migration."
    } else {
        "Fixed during a migration."
    };
    let (action, defaults) = if row.repeatable {
        (ArgAction::Append, row.default.split(' ').collect())
    } else {
        (ArgAction::Set, vec![row.default])
    };
    // Sizes, rates and times of seconds show theirs in the placeholder.
    let unit = match row.unit {
        Some(unit @ ("milliseconds" | "percent")) => format!(" ({unit})"),
        _ => String::new(),
    };
    Arg::new(row.name)
        .long(row.name)
        .value_name(value_name(row))
        .action(action)
        .value_parser(Checked(move |value: &str| {
            check(row, value).map(|()| value.to_owned())
        }))
        .default_values(defaults)
        .allow_negative_numbers(true)
        .help_heading("Parameters")
        .help(format!("{}{unit}", row.meaning))
        .long_help(format!(
            "{}{unit}.\n\nAllowed: {range}. {running}",
            row.meaning
        ))
}

/// Splits `METHOD:LEVEL`; other parameters have no level.
fn with_level<'a>(row: &Parameter, value: &'a str) -> (&'a str, Option<&'a str>) {
    match value.split_once(':') {
        Some((method, level)) if row.name == METHOD => (method, Some(level)),
        _ => (value, None),
    }
}

/// Whether the value is one that the row can have.
fn check(row: &Parameter, value: &str) -> Result<(), ParamError> {
    let mut params = Params::default();
    let (value, level) = with_level(row, value);
    if let Some(level) = level {
        // The method's own range, if there is such a method.
        params.set_text(METHOD, value)?;
        let method = params.compress_method;
        match level.parse() {
            Ok(level) if !method.levels().contains(&level) => {
                return Err(ParamError::BadLevel { method, level });
            }
            _ => params.set_text(LEVEL, level)?,
        }
    }
    if row.repeatable {
        let one = [TypedParam::from_text(row.name, value)?];
        return typed::apply(&one, &mut params, &mut Caps::default());
    }
    params.set_text(row.name, value)
}

/// Refuses capabilities that were switched otherwise than `compression` says.
fn check_agreement(compression: &[TypedParam], chosen: Caps, caps: Caps) -> Result<(), Error> {
    let differs = |capability: &Capability| chosen.has(*capability) != caps.has(*capability);
    let both = [Capability::Compress, Capability::Xbzrle];
    let Some(capability) = both.into_iter().find(differs) else {
        return Ok(());
    };
    let state = if caps.has(capability) { "on" } else { "off" };
    let names: Vec<_> = compression
        .iter()
        .filter(|param| param.name != METHOD)
        .map(|param| param.value.to_string())
        .collect();
    let what = format!(
        "capability {capability}={state} contradicts compression {}: give one of them",
        names.join(" ")
    );
    Err(Error::new(Kind::Usage, what))
}

/// The placeholder for the value in the help text.
fn value_name(row: &Parameter) -> &'static str {
    match (row.kind, row.unit) {
        (params::Kind::Boolean, _) => "on|off",
        _ if row.name == "link" => "RATE[/DELAY]",
        _ if row.name == METHOD => "METHOD[:LEVEL]",
        (params::Kind::String, _) => "NAME",
        (_, Some("bytes")) => "SIZE",
        (_, Some("bytes per second")) => "RATE",
        (_, Some("seconds")) => "TIME",
        _ => "N",
    }
}

/// With `compared`, only what has an effect in a comparison.
fn capability_option(compared: bool) -> Arg {
    let of_comparisons = [Capability::Compress, Capability::Xbzrle];
    let shown = Capability::ALL
        .into_iter()
        .filter(|capability| !compared || of_comparisons.contains(capability));
    let list: Vec<String> = shown
        .clone()
        .map(|capability| {
            let state = if capability.default_state() {
                "on"
            } else {
                "off"
            };
            format!("{capability}: {} [default: {state}]", capability.meaning())
        })
        .collect();
    let names: Vec<&str> = shown.map(Capability::name).collect();
    let names = names.join(", ");
    Arg::new(CAPABILITY)
        .long(CAPABILITY)
        .value_name("NAME=on|off")
        .action(ArgAction::Append)
        .value_parser(Checked(|value: &str| {
            Caps::default().set_text(value).map(|()| value.to_owned())
        }))
        .help_heading("Parameters")
        .help(format!("Turn a capability on or off: {names}"))
        .long_help(format!(
            "Turn a capability on or off; may be given several times.\n\n{}",
            list.join("\n")
        ))
}

/// Takes what a check makes of a text, and reports what it declines in one line, without the words
/// that clap's own parsers put around a message: the check's message names all that is needed.
#[derive(Clone)]
pub(super) struct Checked<F>(pub(super) F);

impl<F, T, E> TypedValueParser for Checked<F>
where
    F: Fn(&str) -> Result<T, E> + Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    E: fmt::Display,
{
    type Value = T;

    fn parse_ref(
        &self,
        _command: &Command,
        _arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        // No value here allows bytes that are not UTF-8: shown as they may be, they are refused
        // by the same check.
        (self.0)(&value.to_string_lossy()).map_err(refusal)
    }
}

/// clap's error for a value that is refused; it ends the program with exit code 2.
/// Takes the path of an image, and refuses an address that was given in its place, or `-`.
#[derive(Clone)]
pub(super) struct ImagePath;

/// Takes the path of an output, and refuses `-`.
#[derive(Clone)]
pub(super) struct OutputPath;

impl TypedValueParser for OutputPath {
    type Value = PathBuf;

    fn parse_ref(
        &self,
        _command: &Command,
        _arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<PathBuf, clap::Error> {
        if value == "-" {
            return Err(refusal(
                "'-' (standard output) cannot be used here: a file is needed that can be written at any \
                 position; ./- is a file of this name",
            ));
        }
        Ok(PathBuf::from(value))
    }
}

impl TypedValueParser for ImagePath {
    type Value = PathBuf;

    fn parse_ref(
        &self,
        _command: &Command,
        _arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<PathBuf, clap::Error> {
        let path = PathBuf::from(value);
        let text = value.to_string_lossy();
        if text == "-" {
            return Err(refusal(
                "'-' (standard input) cannot be used here: a file is needed that can be read at any \
                 position; ./- is a file of this name",
            ));
        }
        if text.contains(':') && text.parse::<Address>().is_ok() && !path.exists() {
            let text = Quoted(&text).to_string();
            return Err(refusal(format!(
                "{text} is an address: IMAGE comes first, then the address"
            )));
        }
        Ok(path)
    }
}

fn refusal(message: impl fmt::Display) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{message}\n"))
}

#[cfg(test)]
mod tests;
