//! Addresses as they are written on the command line, QEMU's way.

use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use super::TransportError;

/// Where a migration goes to or comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// `tcp:HOST:PORT`; an IPv6 host stands in brackets. Port 0 lets a listener pick one.
    Tcp {
        /// Name or number, without brackets.
        host: String,
        /// 0 to 65535.
        port: u16,
    },
    /// `unix:PATH`: a socket.
    Unix(PathBuf),
    /// `file:PATH`: a stream that is stored to be received later.
    File(PathBuf),
    /// `fd:N`: a descriptor that the process inherited.
    Fd(RawFd),
    /// `exec:COMMAND`: the standard input or output of a command, run by the shell.
    Exec(String),
}

impl Address {
    /// Whether a listener may serve it, rather than something that is opened.
    pub fn is_listening(&self) -> bool {
        matches!(self, Address::Tcp { .. } | Address::Unix(_))
    }
}

impl FromStr for Address {
    type Err = TransportError;

    fn from_str(given: &str) -> Result<Address, TransportError> {
        let wrong = |why| TransportError::Address {
            given: given.to_owned(),
            why,
        };
        let (scheme, rest) = given.split_once(':').ok_or(wrong("it has no scheme"))?;
        if rest.is_empty() {
            return Err(wrong("nothing stands behind the scheme"));
        }
        match scheme {
            "tcp" if rest.starts_with("//") => Err(wrong("no slashes stand behind tcp:")),
            "tcp" => {
                let (host, port) = rest
                    .rsplit_once(':')
                    .ok_or(wrong("a host and a port are needed"))?;
                let port = port
                    .parse()
                    .map_err(|_| wrong("the port is no number from 0 to 65535"))?;
                let host = match host.strip_prefix('[') {
                    Some(host) => host
                        .strip_suffix(']')
                        .ok_or(wrong("a bracket is not closed"))?,
                    None if host.contains(':') => {
                        return Err(wrong("an IPv6 host stands in brackets"));
                    }
                    None => host,
                };
                let host = if host.is_empty() { "0.0.0.0" } else { host };
                Ok(Address::Tcp {
                    host: host.to_owned(),
                    port,
                })
            }
            "unix" if rest.len() > 107 => Err(wrong("a socket's path has at most 107 bytes")),
            "unix" => Ok(Address::Unix(rest.into())),
            "file" => Ok(Address::File(rest.into())),
            "fd" => rest
                .parse()
                .ok()
                .filter(|fd| *fd >= 0)
                .map(Address::Fd)
                .ok_or(wrong("a descriptor is a number from 0")),
            "exec" => Ok(Address::Exec(rest.to_owned())),
            _ => Err(wrong("the scheme is unknown")),
        }
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
    fn addresses_are_read_and_shown_alike() {
        for text in [
            "tcp:127.0.0.1:0",
            "tcp:[::1]:4444",
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
    fn what_is_no_address_is_named_with_what_is_allowed() {
        for text in [
            "",
            "x",
            "tcp:",
            "tcp:host",
            "tcp:host:",
            "tcp:host:65536",
            "tcp:::1:5",
            "tcp://127.0.0.1:4444",
            "tcp:[::1:5",
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
        assert!(
            format!("unix:{}", "x".repeat(108))
                .parse::<Address>()
                .is_err()
        );
    }
}
