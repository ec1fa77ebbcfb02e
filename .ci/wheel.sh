#!/usr/bin/env bash
# Builds the wheel, installs it into a fresh environment and runs its tests there.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-$PWD/target}"
tools="$target/maturin-venv" fresh="$target/wheel-venv"
if ! "$tools/bin/maturin" --version 2>/dev/null | grep -q ' 1\.16\.0$'; then
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --no-deps maturin==1.16.0
fi
rm -rf "$target/wheels" "$fresh"
"$tools/bin/maturin" build --release --locked --manifest-path python/Cargo.toml --out "$target/wheels"
python3 -m venv "$fresh"
"$fresh/bin/pip" install --quiet --no-deps -r python/tests/requirements.txt "$target"/wheels/*.whl
"$fresh/bin/plmconv" --version
"$fresh/bin/plmconv" quantize q4 fixtures/tiny-plm -o "$target/wheels/q4.gguf"
# From a folder that holds no package of that name.
cd python/tests
"$fresh/bin/python" -m pytest -q -p no:cacheprovider .
