#!/usr/bin/env bash
# Decoding speed of the latent and the expanded cache in ONNX Runtime, as a Markdown table.
#
#   benches/onnx_layouts.sh FOLDER       a PLM checkpoint
#
#   PYTHON=python3                       with the packages onnxruntime and numpy
#   TYPE=q4 FLAGS=                       what is exported, and further arguments of `plmconv quantize`
#   DEPTHS=0,3000 TOKENS=16 THREADS=2    lengths of the past, tokens timed at each
#   PLMCONV=target/release/plmconv       built where it is missing
set -euo pipefail
source "$(dirname "$0")/common.sh"
expect_arguments 1 $#
model="$(realpath "$1")"
enter_repository
plmconv="${PLMCONV:-target/release/plmconv}"
[ -x "$plmconv" ] || cargo build --release --quiet -p plmconv >&2
mkdir -p target
scratch="$(mktemp -d -p target bench.XXXXXX)"
trap 'rm -rf "$scratch"' EXIT

graphs=()
for profile in latent genai hf; do
    # shellcheck disable=SC2086
    "$plmconv" quantize "${TYPE:-q4}" "$model" --to onnx --profile "$profile" ${FLAGS:-} --quiet -o "$scratch/$profile" >&2
    graphs+=("$profile=$(find "$scratch/$profile" -name '*.onnx')")
done
"${PYTHON:-python3}" benches/onnx_layouts.py "${THREADS:-2}" "${TOKENS:-16}" "${DEPTHS:-0,3000}" "${graphs[@]}"
"${PYTHON:-python3}" -c 'import onnxruntime; print("\nONNX Runtime", onnxruntime.__version__)'
measure machine
