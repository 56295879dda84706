//! Addresses as they are written on the command line, in QEMU's syntax.

use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::TransportError;

/// Every scheme, for messages.
pub(super) const ALL_SCHEMES: &str = "tcp:HOST:PORT, unix:PATH, file:PATH, fd:N and exec:COMMAND";
/// Where a destination can listen.
pub(crate) const LISTENING_SCHEMES: &str = "tcp:HOST:PORT and unix:PATH";

/// Where a migration goes to or comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// `tcp:HOST:PORT`; an IPv6 host is written in brackets. With port 0, the system picks one to
    /// listen on.
    Tcp {
        /// A name or an IP address, without brackets. Empty: every address of this host, IPv4 and
        /// IPv6, to listen on; this host to connect to.
        host: String,
        /// The TCP port.
        port: u16,
    },
    /// `unix:PATH`: a socket.
    Unix(PathBuf),
    /// `file:PATH`: a stored stream, to be received later.
    File(PathBuf),
    /// `fd:N`: a descriptor that the process inherited.
    Fd(RawFd),
    /// `exec:COMMAND`: the standard input or output of a command, run by the shell.
    Exec(String),
}

impl Address {
    /// Whether a destination listens there, rather than opening it.
    pub fn is_listening(&self) -> bool {
        matches!(self, Address::Tcp { .. } | Address::Unix(_))
    }
}

impl FromStr for Address {
    type Err = TransportError;

    fn from_str(given: &str) -> Result<Address, TransportError> {
        let wrong = |why: &str| TransportError::Address {
            given: given.to_owned(),
            why: why.to_owned().into(),
            allowed: ALL_SCHEMES,
        };
        let Some((scheme, rest)) = given.split_once(':') else {
            return Err(wrong(&without_scheme(given)));
        };
        if rest.is_empty() {
            return Err(wrong("nothing follows the scheme"));
        }
        match scheme {
            "tcp" if rest.starts_with("//") => Err(wrong("write tcp:HOST:PORT, without //")),
            "tcp" => {
                let (host, port) = rest
                    .rsplit_once(':')
                    .ok_or_else(|| wrong(&without_port(rest)))?;
                let port = port
                    .parse()
                    .map_err(|_| wrong("the port is not a number from 0 to 65535"))?;
                let host = match host.strip_prefix('[') {
                    Some(host) => host
                        .strip_suffix(']')
                        .ok_or(wrong("a bracket is not closed"))?,
                    None if host.contains(':') => {
                        return Err(wrong("an IPv6 host is written in brackets"));
                    }
                    None => host,
                };
                if host.contains(['[', ']', '/']) {
                    return Err(wrong("a host is a name or an IP address"));
                }
                Ok(Address::Tcp {
                    host: host.to_owned(),
                    port,
                })
            }
            "unix" | "file" if rest.starts_with("~/") => Err(wrong(&format!(
                "the shell does not expand ~ here, write {scheme}:$HOME{}",
                &rest[1..]
            ))),
            "file" if rest == "-" => Err(wrong(
                "standard input is fd:0, standard output fd:1, and a file of this name file:./-",
            )),
            "unix" if rest.len() > 107 => Err(wrong("the path of a socket has at most 107 bytes")),
            "unix" => Ok(Address::Unix(rest.into())),
            "file" => Ok(Address::File(rest.into())),
            "fd" => rest
                .parse()
                .ok()
                .filter(|fd| *fd >= 0)
                .map(Address::Fd)
                .ok_or(wrong("a descriptor is a number, 0 or above")),
            "exec" => Ok(Address::Exec(rest.to_owned())),
            // HOST:PORT, as other tools take it.
            _ if format!("tcp:{given}").parse::<Address>().is_ok() => {
                Err(wrong(&format!("write tcp:{given}")))
            }
            _ => Err(wrong("the scheme is unknown")),
        }
    }
}

/// Why a text without a scheme is not an address.
fn without_scheme(given: &str) -> String {
    if given.parse::<u16>().is_ok() {
        return format!("a port alone is tcp::{given}, or tcp:HOST:{given}");
    }
    "it does not begin with a scheme".to_owned()
}

/// Why an address of tcp without a colon is not one.
fn without_port(rest: &str) -> String {
    match rest.parse::<u16>() {
        Ok(port) => format!("a host and a port are needed; did you mean tcp::{port}?"),
        Err(_) => "a host and a port are needed".to_owned(),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::File(path) => write!(f, "file:{}", path.display()),
            Address::Fd(fd) => write!(f, "fd:{fd}"),
            Address::Exec(command) => write!(f, "exec:{command}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_displayed_as_it_is_written() {
        for text in [
            "tcp:127.0.0.1:0",
            "tcp:[::1]:4444",
            "tcp:[::]:4444",
            "tcp::4444",
            "tcp:host.example:1",
            "unix:r.sock",
            "unix:/a/b:c",
            "file:/tmp/x",
            "fd:3",
            "exec:cat > 'a b'",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_invalid_address_is_named_with_what_is_allowed() {
        for text in [
            "",
            "x",
            "tcp:",
            "tcp:host",
            "tcp:host:",
            "tcp:host:65536",
            "tcp:::1:5",
            "tcp://127.0.0.1:4444",
            "192.0.2.7:4444",
            "[::1]:4444",
            "unix:~/r.sock",
            "tcp:[::1:5",
            "tcp:[[]:441",
            "tcp:[//h]:1",
            "udp:x:1",
            "fd:-1",
            "fd:x",
            "unix:",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(
                error.contains(&format!("'{text}'")) && error.contains("exec:COMMAND"),
                "{error}"
            );
        }
        for (text, hint) in [
            ("192.0.2.7:4444", "write tcp:192.0.2.7:4444"),
            ("[::1]:4444", "write tcp:[::1]:4444"),
            ("tcp://h:1", "write tcp:HOST:PORT, without //"),
            ("tcp:4481", "did you mean tcp::4481?"),
            ("4481", "a port alone is tcp::4481, or tcp:HOST:4481"),
            ("file:-", "standard input is fd:0, standard output fd:1"),
            ("unix:~/r.sock", "write unix:$HOME/r.sock"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
        assert!(
            format!("unix:{}", "x".repeat(108))
                .parse::<Address>()
                .is_err()
        );
    }
}
