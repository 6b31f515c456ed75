#!/usr/bin/env bash
# Feeds a fuzz target of tests/fuzz with so many inputs (10 million unless told):
#     scripts/fuzz.sh TARGET [RUNS]
# Needs cargo-fuzz (cargo install cargo-fuzz) and a C++ compiler; a stable Rust will do, as no
# sanitizer is used: what is fuzzed has no `unsafe`. The first build takes minutes. Starts from the
# inputs in tests/fuzz/corpus; those found on the way are kept in target/fuzz, for the next run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

targets=$(cd tests/fuzz/fuzz_targets && ls ./*.rs | sed 's|^\./||; s|\.rs$||')
target=${1:-}
runs=${2:-10000000}
if ! grep -qx -- "$target" <<<"$targets" || [[ ! $runs =~ ^[0-9]+$ ]]; then
    printf 'usage: %s TARGET [RUNS]\ntargets:\n%s\n' "$0" "$targets" >&2
    exit 2
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "cargo-fuzz is missing: cargo install cargo-fuzz" >&2
    exit 1
fi

build=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
found=$build/corpus/$target
mkdir -p "$found"
exec cargo fuzz run --fuzz-dir tests/fuzz --target-dir "$build" --sanitizer none "$target" \
    "$found" "tests/fuzz/corpus/$target" -- -runs="$runs" -print_final_stats=1
