#!/bin/sh
# usage: sh tests/run.sh [--no-install]
#
# Runs everything that has to pass before a change lands: formatting, lints, documentation, tests.
# What some tests need (QEMU, Chromium, QEMU's QMP client) is installed where that is possible, on
# Debian as root; those tests are skipped where it is not. --no-install installs nothing.
set -eu
cd "$(dirname "$0")/.."

install=yes
for argument; do
    case $argument in
    --no-install) install=no ;;
    -h | --help)
        sed -n '2,6s/^# \{0,1\}//p' tests/run.sh
        exit 0
        ;;
    *)
        echo "unknown argument '$argument': sh tests/run.sh [--no-install]" >&2
        exit 2
        ;;
    esac
done

log=target/run.log
qemu=${RAMFERRY_QEMU:-qemu-system-x86_64}
qmp=target/qmp-clients
mkdir -p target
: >$log

is_there() {
    command -v "$1" >/dev/null 2>&1
}

has_qmp_client() {
    "$qmp/bin/python" -c 'import qemu.qmp' >/dev/null 2>&1
}

# Runs a command that installs something. Its output is kept in a log, and shown if it fails.
quietly() {
    "$@" >$log 2>&1 && return
    echo "failed: $*" >&2
    tail -n 20 $log >&2
    return 1
}

# package WHY PACKAGE...: installs Debian packages.
package() {
    why=$1
    shift
    if ! is_there apt-get || [ "$(id -u)" != 0 ]; then
        return 1
    fi
    echo "== installing $*: $why (log: $log)"
    quietly apt-get update && quietly apt-get install -y --no-install-recommends "$@"
}

# Every test that is left out is named at the end, also when something failed.
finish() {
    status=$?
    is_there chromium || echo "SKIPPED: the benchmark's page in a browser (apt-get install chromium)"
    "$qemu" --version >/dev/null 2>&1 ||
        echo "SKIPPED: all tests with a real QEMU: cannot run $qemu (apt-get install qemu-system-x86)"
    has_qmp_client ||
        echo "SKIPPED: the monitor with QEMU's own client: qemu.qmp is not installed in $qmp (tests/qmp/requirements.txt)"
    if [ $status = 0 ]; then
        echo "== all passed, in $(($(date +%s) - begin)) s"
    else
        echo "== FAILED: ${stage:-installing} (exit code $status)"
    fi
}
begin=$(date +%s)
trap finish EXIT

# stage NAME COMMAND...
stage() {
    stage=$1
    shift
    since=$(date +%s)
    echo "== $stage"
    "$@"
    echo "== $stage: passed, in $(($(date +%s) - since)) s"
}

if [ $install = yes ]; then
    # Without these, tests are skipped, or fail where they are required: no reason to stop here.
    is_there cc || package "some codecs are written in C" gcc libc6-dev || true
    is_there "$qemu" || package "the other end of some migrations" qemu-system-x86 || true
    is_there chromium || package "opens the benchmark's page" chromium || true
    if ! has_qmp_client; then
        rm -rf "$qmp"
        if ! python3 -m venv "$qmp" >$log 2>&1; then
            package "QEMU's QMP client drives the monitor" python3 python3-venv || true
            rm -rf "$qmp"
            quietly python3 -m venv "$qmp" || true
        fi
        echo "== installing qemu.qmp into $qmp: it drives the monitor (log: $log)"
        quietly "$qmp/bin/python" -m pip install --requirement tests/qmp/requirements.txt || true
    fi
fi
if ! is_there cc; then
    echo "no C compiler (cc), which some codecs are built with: apt-get install gcc libc6-dev" >&2
    exit 1
fi

# On a terminal cargo shows how far it is; in a log its lines of every package are noise.
quiet=--quiet
if [ -t 2 ]; then
    quiet=
fi

if cargo fmt --version >/dev/null 2>&1; then
    stage "formatting" cargo fmt --check
else
    echo "SKIPPED: formatting (rustup component add rustfmt)"
fi
if cargo clippy --version >/dev/null 2>&1; then
    stage "lints" cargo clippy $quiet --all-targets -- -D warnings
    stage "lints of the library without the program" \
        cargo clippy $quiet --lib --no-default-features -- -D warnings
else
    echo "SKIPPED: lints (rustup component add clippy)"
fi
stage "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc $quiet --no-deps
stage "building the tests" cargo test $quiet --no-run
# Many tests wait most of the time: more of them at once than there are cores.
stage "tests (about two minutes on two idle cores)" \
    env RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}" cargo test --no-fail-fast
