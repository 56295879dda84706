#!/bin/sh
# usage: sh fuzz/run.sh [SECONDS] [TARGET...]
#
# Builds all targets with AddressSanitizer and runs each for SECONDS (60), one after the other, from
# what is stored in fuzz/corpus/. Prints a table. What a target finds is kept in fuzz/work/TARGET/;
# --keep stores it again, minimised, as fuzz/corpus/TARGET.bin. Exit code 1: something crashed, took
# more than 10 seconds or 1 GiB; the inputs are in fuzz/work/crashes/.
#
# Needs cargo-fuzz (cargo install cargo-fuzz --locked) and a nightly toolchain, or a stable one with
# RUSTC_BOOTSTRAP=1.
set -eu
cd "$(dirname "$0")/.."

# The most bytes of a stored corpus.
most=65536

keep=no
if [ "${1:-}" = --keep ]; then
    keep=yes
    shift
fi
seconds=${1:-60}
[ $# = 0 ] || shift

host=$(rustc -vV | sed -n 's/^host: //p')
nightly=+nightly
[ -z "${RUSTC_BOOTSTRAP:-}" ] || nightly=
# shellcheck disable=SC2086
cargo $nightly fuzz build --release --debug-assertions
built=${CARGO_TARGET_DIR:-fuzz/target}/$host/release
[ $# != 0 ] || set -- $("$built/corpus" list)

work=$PWD/fuzz/work
scratch=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)" ramferry-fuzz.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$work/crashes"

# number FILE NAME: of libFuzzer's last statistics.
number() {
    sed -n "s/^stat::$2: *//p" "$1" | tail -n 1
}

failed=0
printf '%-15s %12s %8s %7s %7s %8s\n' target runs runs/s edges corpus crashes
for target; do
    corpus=$work/$target
    log=$work/$target.log
    "$built/corpus" unpack "$target" "$corpus"
    status=0
    # A thread that has just ended looks like a leak.
    TMPDIR=$scratch nice -n 19 "$built/$target" "$corpus" -max_total_time="$seconds" -max_len=65536 \
        -rss_limit_mb=1024 -timeout=10 -detect_leaks=0 -print_final_stats=1 -artifact_prefix="$work/crashes/$target-" \
        >"$log" 2>&1 || status=$?
    rm -rf "$scratch"/*
    edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    printf '%-15s %12s %8s %7s %7s %8s\n' "$target" "$(number "$log" number_of_executed_units)" \
        "$(number "$log" average_exec_per_sec)" "$edges" "$(find "$corpus" -type f | wc -l)" \
        "$(find "$work/crashes" -name "$target-*" | wc -l)"
    if [ $status != 0 ]; then
        failed=1
        grep -m 3 -E 'panicked at|SUMMARY|ERROR' "$log" || tail -n 5 "$log"
    fi
    if [ $keep = yes ]; then
        rm -rf "$corpus.min"
        mkdir "$corpus.min"
        TMPDIR=$scratch nice -n 19 "$built/$target" -merge=1 "$corpus.min" "$corpus" >>"$log" 2>&1 || failed=1
        rm -rf "$scratch"/*
        "$built/corpus" pack "$target" "$corpus.min" $most
    fi
done
exit $failed
