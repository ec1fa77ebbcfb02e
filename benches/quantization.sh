#!/usr/bin/env bash
# What guided rounding brings in llama.cpp: mean KL divergence from the checkpoint of each ingredient alone and together,
# and divergence over bits per weight beside llama-quantize with an importance matrix (--imatrix, which writes its
# bytes). llama.cpp computes the divergence; what `plmconv validate` says of the same file stands beside it.
# Markdown to stdout, the plot to PLOT.
#
#   benches/quantization.sh CALIBRATION_TEXT TEXT... -- FOLDER...   texts to judge on, and checkpoints
#
#   TYPE=q4_k_m                             of the table of ingredients, which is of the first checkpoint
#   TYPES="q3_k_m iq4_xs q4_0 q4_k_m q5_k_m q6_k q8_0"  of the comparison
#   CTX=256 CHUNKS=60                       windows judged
#   PLOT=docs/quantization.svg
#   PLMCONV=target/release/plmconv          built where it is missing
#
# benches/outlier_plm.py makes a checkpoint with outlier channels of one without.
set -euo pipefail
source "$(dirname "$0")/common.sh"
expect_arguments 4+ $#
calibration="$(realpath "$1")"
take_texts_and_models "${@:2}"
enter_repository
find_plmconv
# Its instruction set does not matter here: nothing is timed in it.
cargo build --release --quiet -p plmconv-interop --no-default-features --features llama --bin llama_divergence >&2
llama_divergence="${CARGO_TARGET_DIR:-$PWD/target}/release/llama_divergence"
make_scratch
# Threads that wait for each other by spinning take minutes on a busy machine.
export OMP_WAIT_POLICY=passive

# judge KIND LABEL TYPE OPTIONS...: quantizes, and adds a line of JSON to the results. $size_of is the type that the
# file is compared at.
judge() {
    local kind="$1" label="$2" type="$3" file="$scratch/judged.gguf" index
    shift 3
    local start="$EPOCHREALTIME"
    "$plmconv" quantize "$type" "$model" --force --quiet -o "$file" "$@" >/dev/null
    local end="$EPOCHREALTIME"
    local latent=()
    [[ " $* " == *" latent "* ]] && latent=(--flash-attention)
    "$llama_divergence" "$scratch/f32.gguf" "$file" "${texts[@]/#/--text=}" --ctx "${CTX:-256}" \
        --chunks "${CHUNKS:-60}" "${latent[@]}" >"$scratch/peer.jsonl"
    validate "$file" "$model" "${texts[0]}"
    python3 benches/quantization.py line "${model##*/}" "$kind" "$label" "$type" "${size_of:-$type}" "$file" "$start" "$end" \
        "$scratch/peer.jsonl" "$scratch/report.json" >>"$scratch/results.jsonl"
    echo "${model##*/}: $label, $type" >&2
}

# Statistics are an importance matrix too.
compare_ingredients() {
    local type="$1"
    judge ingredient "none: llama-quantize without a matrix" "$type"
    judge ingredient "importance of columns: llama-quantize with a matrix" "$type" --imatrix "$statistics"
    judge ingredient "importance of columns (--effort fast)" "$type" --stats "$statistics" --effort fast
    judge ingredient "feedback within rows" "$type" --stats "$statistics" --without rows
    judge ingredient "feedback across rows" "$type" --stats "$statistics" --without columns
    judge ingredient "both, channels as they are" "$type" --stats "$statistics" --without balance
    judge ingredient "all (--effort normal)" "$type" --stats "$statistics"
    judge ingredient "all, wider search (--effort max)" "$type" --stats "$statistics" --effort max
}

statistics="$scratch/statistics.gguf"
for model in "${models[@]}"; do
    "$plmconv" calibrate "$model" --text "$calibration" -o "$statistics" --force --quiet
    "$plmconv" convert "$model" --to gguf --dtype f32 -o "$scratch/f32.gguf" --force --quiet >/dev/null
    [ "$model" != "${models[0]}" ] || compare_ingredients "${TYPE:-q4_k_m}"
    for type in ${TYPES:-q3_k_m iq4_xs q4_0 q4_k_m q5_k_m q6_k q8_0}; do
        judge peer "llama-quantize with a matrix" "$type" --imatrix "$statistics"
        size="$(stat -c %s "$scratch/judged.gguf")"
        judge ours "plmconv --stats" "$type" --stats "$statistics"
        size_of="$type" judge auto "plmconv auto of that size" auto --stats "$statistics" --target-size "$size"
    done
    judge alone "channels as they are" "${TYPE:-q4_k_m}" --stats "$statistics" --without balance
    judge alone "latent layout" q4 --layout latent --stats "$statistics"
done
python3 benches/quantization.py report "$scratch/results.jsonl" "${PLOT:-docs/quantization.svg}" \
    "${texts[@]##*/}"
