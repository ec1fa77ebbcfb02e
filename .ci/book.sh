#!/usr/bin/env bash
# Builds the book of docs/ into target/book with mdBook, which is compiled first where it is missing (minutes). A warning is a
# failure.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.5.4
tools="${CARGO_TARGET_DIR:-$PWD/target}/mdbook"
if ! "$tools/bin/mdbook" --version 2>/dev/null | grep -q "$version"; then
    cargo install --locked --quiet --no-default-features --features search --root "$tools" "mdbook@$version"
fi
log="$("$tools/bin/mdbook" build 2>&1)" || { echo "$log" >&2; exit 1; }
echo "$log"
if grep -E 'WARN|ERROR' <<<"$log" >/dev/null; then
    echo "mdBook warns" >&2
    exit 1
fi
