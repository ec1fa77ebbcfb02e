#!/usr/bin/env bash
# What each pass does to the divergence, in llama.cpp's arithmetic (`plmconv validate`), without statistics: a table for
# each checkpoint, Markdown to stdout.
#
#   benches/passes.sh TEXT FOLDER...
#
#   TYPES="q8_0 q4_k_m"
#   CTX=256 CHUNKS=30                       windows judged
#   PLMCONV=target/release/plmconv          built where it is missing
set -euo pipefail
source "$(dirname "$0")/common.sh"
expect_arguments 2+ $#
text="$(realpath "$1")"
models=()
for model in "${@:2}"; do models+=("$(realpath "$model")"); done
enter_repository
find_plmconv
make_scratch
CHUNKS="${CHUNKS:-30}"
read -ra types <<<"${TYPES:-q8_0 q4_k_m}"
passes=("" fold-latent-norm fold-latent-norm,turn-latent turn-values turn-keys rescale-neurons sort-neurons)

# divergence MODEL TYPE LAYOUT PASSES: the mean.
divergence() {
    local more=()
    [ -z "$4" ] || more=(--passes "$4")
    "$plmconv" quantize "$2" "$1" --layout "$3" "${more[@]}" -o "$scratch/file.gguf" --force --quiet >/dev/null
    validate "$scratch/file.gguf" "$1" "$text"
    python3 -c 'import json, sys; print("%.6f" % json.load(sys.stdin)["kl_divergence"]["mean"])' \
        <"$scratch/report.json"
}

for model in "${models[@]}"; do
    head="| ${model##*/} |" rule="| --- |"
    for layout in plm latent; do
        for type in "${types[@]}"; do
            head+=" $layout, $type |"
            rule+=" ---: |"
        done
    done
    printf '%s\n%s\n' "$head" "$rule"
    for pass in "${passes[@]}"; do
        row="| ${pass:-none} |"
        for layout in plm latent; do
            for type in "${types[@]}"; do row+=" $(divergence "$model" "$type" "$layout" "$pass") |"; done
        done
        echo "$row"
    done
    echo
done
