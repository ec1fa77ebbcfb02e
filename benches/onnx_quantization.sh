#!/usr/bin/env bash
# Mean KL divergence of ONNX exports in ONNX Runtime: 4 bits with heads of 4 and of 8, and budgets of those sizes. Markdown
# to stdout, a row for each checkpoint, export and text.
#
#   benches/onnx_quantization.sh CALIBRATION_TEXT TEXT... -- FOLDER...
#
#   ORT_DYLIB_PATH=                         ONNX Runtime's library (docs/validation.md)
#   CTX=256 CHUNKS=60                       windows judged
set -euo pipefail
source "$(dirname "$0")/common.sh"
expect_arguments 4+ $#
: "${ORT_DYLIB_PATH:?names the library of ONNX Runtime}"
calibration="$(realpath "$1")"
take_texts_and_models "${@:2}"
enter_repository
cargo build --release --quiet --features ort --target-dir target/ort >&2
plmconv=target/ort/release/plmconv
make_scratch

# judge OPTIONS...: exports `model`, sets `bytes`, and prints a row for each text.
judge() {
    "$plmconv" quantize "$@" "$model" --to onnx --stats "$scratch/statistics.gguf" -o "$scratch/out" --force \
        --quiet >/dev/null
    bytes="$(find "$scratch/out" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')"
    local text
    for text in "${texts[@]}"; do
        validate "$scratch/out" "$model" "$text"
        python3 -c 'import json, sys; print(*sys.argv[1:], "%.5f |" % json.load(sys.stdin)["kl_divergence"]["mean"])' \
            "| ${model##*/} | $* | $bytes | ${text##*/} |" <"$scratch/report.json"
    done
}

echo "| checkpoint | export | bytes | text | mean KL divergence |"
echo "| --- | --- | ---: | --- | ---: |"
for model in "${models[@]}"; do
    "$plmconv" calibrate "$model" --text "$calibration" -o "$scratch/statistics.gguf" --force --quiet
    for head in q4 q8; do
        judge q4 --token-embedding-type "$head"
        judge auto --target-size "$bytes"
    done
done
