#!/bin/sh
# Everything that has to hold before a change lands: formatting, lints, documentation, tests.
# Installs what it needs where it can (Debian, as root).
set -eu
cd "$(dirname "$0")/.."

if ! command -v cc >/dev/null 2>&1; then
    echo "installing a C compiler, which some codecs are built with" >&2
    apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev
fi
qemu=${RAMFERRY_QEMU:-qemu-system-x86_64}
if ! command -v "$qemu" >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "installing QEMU, which migrations are tested with" >&2
    # Without it those tests are skipped, or fail where they are required.
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends qemu-system-x86; } || true
fi

if ! command -v chromium >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "installing chromium, which the benchmark's page is opened with" >&2
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || true
fi

# QEMU's own QMP client drives the monitor in the tests; where it is already, nothing is asked of the network.
qmp=target/qmp-clients
if ! "$qmp/bin/python" -c 'import qemu.qmp' >/dev/null 2>&1; then
    echo "installing qemu.qmp, which the monitor is tested with" >&2
    rm -rf "$qmp"
    mkdir -p target
    if ! python3 -m venv "$qmp" >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 python3-venv; } || true
        rm -rf "$qmp"
        python3 -m venv "$qmp" || true
    fi
    # Without it those tests are skipped, or fail where they are required.
    "$qmp/bin/python" -m pip install --quiet --requirement tests/qmp/requirements.txt || true
fi

if cargo fmt --version >/dev/null 2>&1; then
    cargo fmt --check
else
    echo "SKIPPED: formatting (rustup component add rustfmt)" >&2
fi
if cargo clippy --version >/dev/null 2>&1; then
    cargo clippy --quiet --all-targets -- -D warnings
else
    echo "SKIPPED: lints (rustup component add clippy)" >&2
fi
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps
# Many tests wait for something most of the time: more of them at once than there are cores.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-4} cargo test
if ! command -v chromium >/dev/null 2>&1; then
    echo "SKIPPED: the benchmark's page in a browser (apt-get install chromium)" >&2
fi
if ! "$qemu" --version >/dev/null 2>&1; then
    echo "SKIPPED: every test with a real QEMU: $qemu cannot be run (apt-get install qemu-system-x86)" >&2
fi
if ! "$qmp/bin/python" -c 'import qemu.qmp' >/dev/null 2>&1; then
    echo "SKIPPED: the monitor with QEMU's own client: qemu.qmp could not be installed (pip install qemu.qmp)" >&2
fi
