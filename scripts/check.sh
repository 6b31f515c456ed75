#!/usr/bin/env bash
# What must hold before a commit, besides the tests: format, lints, documentation, tidiness.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo fmt --check
cargo clippy --quiet --locked --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --no-deps --document-private-items

# Tidy: what neither the compiler nor clippy looks at. The direction of imports and the place of
# `unsafe` are checked by the test suite (tests/suite/floors.rs).
fail=0
complain() { echo "tidy: $1" >&2; fail=1; }
while IFS= read -r file; do
    if grep -nE '(todo|unimplemented|dbg)!\(' "$file"; then complain "$file: left-over macro"; fi
    if grep -nP '[ \t]+$' "$file"; then complain "$file: trailing white space"; fi
done < <(git ls-files '*.rs' '*.sh' '*.toml' '*.md')
exit "$fail"
