#!/usr/bin/env bash
# whole-run.sh FOLDER PROGRAM...: every kind of output from the tiny PLM, and what the evaluator says and writes; prints
# the sha256 of each. Runs from the project's root with relative paths, so that two machines are given the same words.
set -euo pipefail
folder="$1"
shift
program=("$@")
model=fixtures/tiny-plm
text=fixtures/text/own.txt
rm -rf "$folder"
mkdir -p "$folder"

plmconv() {
    local start=$SECONDS
    "${program[@]}" "$@"
    echo "$1: $((SECONDS - start)) s" >&2
}

plmconv calibrate -q "$model" --text "$text" --self 32 --calibration-ctx 32 --calibration-chunks 2 -o "$folder/stats.gguf" >&2
plmconv quantize -q q4 "$model" -o "$folder/q4.gguf" >&2
# Rounding with feedback takes long on an emulated machine: one layer of it.
plmconv quantize -q q4_k_m "$model" --stats "$folder/stats.gguf" --effort normal \
    --tensor-type 'blk\.[1-9]=f16' --token-embedding-type f16 -o "$folder/guided.gguf" >&2
plmconv quantize -q auto --target-bpw 4.6 "$model" --stats "$folder/stats.gguf" --effort fast -o "$folder/budget.gguf" >&2
plmconv quantize -q q4 "$model" --to onnx -o "$folder/onnx" >&2
plmconv generate -q "$folder/q4.gguf" "The" -n 8 --temp 0.8 --seed 5 >"$folder/generated.txt"
plmconv validate -q "$folder/q4.gguf" --against "$model" --text "$text" --ctx 32 --chunks 2 >&2
cd "$folder"
find . -type f | sort | xargs sha256sum
