//! Keeps all connections together below `max-bandwidth`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::session::Context;
use crate::sync;
use crate::transport::{Stream, TransportError};

/// Writes are cut into slices of this length, so that a change of the rate and an abort take effect
/// at once and the peer is never without data for long.
const SLICE: Duration = Duration::from_millis(10);

/// A token bucket for all connections of a session.
#[derive(Debug)]
pub(super) struct Throttle {
    /// When the link is free again for the next slice.
    free_at: Mutex<Instant>,
}

impl Throttle {
    pub(super) fn new() -> Throttle {
        Throttle {
            free_at: Mutex::new(Instant::now()),
        }
    }

    /// Writes a packet's head and body, no faster than allowed, and calls `written` after each slice: a whole
    /// packet may take long.
    pub(super) fn write(
        &self,
        stream: &Stream,
        packet: [&[u8]; 2],
        context: &Context,
        written: impl Fn(),
    ) -> Result<(), TransportError> {
        let allowed = || context.tuning.get().max_bandwidth;
        if allowed() == 0 {
            return stream.write(packet[0], packet[1]);
        }
        let mut rest = packet;
        while rest.iter().any(|part| !part.is_empty()) {
            let rate = allowed();
            if rate == 0 {
                return stream.write(rest[0], rest[1]);
            }
            let slice = (rate as f64 * SLICE.as_secs_f64()).clamp(1.0, (1 << 30) as f64) as usize;
            let of_head = slice.min(rest[0].len());
            let of_body = (slice - of_head).min(rest[1].len());
            let wait = self.reserve(of_head + of_body, rate);
            if !wait.is_zero() {
                context.abort.wait(wait).map_err(TransportError::Link)?;
            }
            stream.write(&rest[0][..of_head], &rest[1][..of_body])?;
            written();
            rest = [&rest[0][of_head..], &rest[1][of_body..]];
        }
        Ok(())
    }

    /// Reserves the link for `bytes` and returns how long to wait for it. An idle link saves up one
    /// slice at most.
    fn reserve(&self, bytes: usize, rate: u64) -> Duration {
        let now = Instant::now();
        let mut free_at = sync::lock(&self.free_at);
        let start = (*free_at).max(now.checked_sub(SLICE).unwrap_or(now));
        *free_at = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
        start.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_of_all_connections_add_up_to_the_rate() {
        let throttle = Throttle::new();
        let rate = 1_000_000;
        // 100 slices of 10 000 bytes are one second at this rate.
        let last = (0..100)
            .map(|_| throttle.reserve(10_000, rate))
            .last()
            .unwrap();
        assert!(
            last > Duration::from_millis(950) && last <= Duration::from_millis(990),
            "{last:?}"
        );
        // A higher rate takes effect with the next slice.
        let before = throttle.reserve(0, rate);
        let after = {
            throttle.reserve(10_000_000, 1_000_000_000);
            throttle.reserve(0, rate)
        };
        assert!(after - before < Duration::from_millis(15));
    }
}
