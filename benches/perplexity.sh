#!/usr/bin/env bash
# Times `plmconv perplexity` beside llama-perplexity's measure (through llama.cpp's C interface) on the same file and
# text, turn by turn in the same run, and prints a Markdown table of medians.
#
#   benches/perplexity.sh MODEL.gguf TEXT
#
#   CTX=512        tokens in a window
#   CHUNKS=8       windows
#   REPEAT=3       times each
#   THREADS=$(nproc)
#   OURS_ARGS=""   further arguments for plmconv, such as --exact
set -euo pipefail
source "$(dirname "$0")/common.sh"
expect_arguments 2 $#
model="$(realpath "$1")"
text="$(realpath "$2")"
enter_repository
ctx="${CTX:-512}"
chunks="${CHUNKS:-8}"
repeat="${REPEAT:-3}"
threads="${THREADS:-$(nproc)}"
read -ra ours_args <<<"${OURS_ARGS:-}"
build
make_scratch
results="$scratch/results.tsv"
: >"$results"

for ((turn = 1; turn <= repeat; turn++)); do
    echo "turn $turn of $repeat" >&2
    measure run "$results" ours "$scratch/ours-$turn.json" "$OURS" perplexity "$model" --text "$text" --ctx "$ctx" \
        --chunks "$chunks" --threads "$threads" --json "${ours_args[@]}"
    measure run "$results" peer "$scratch/peer-$turn.json" "$PEERS/llama_perplexity" "$model" "$text" --ctx "$ctx" \
        --chunks "$chunks" --threads "$threads"
done

median() { measure median "$results" "$1" "$2"; }
tokens=$((ctx * chunks))
row() {
    local wall
    wall=$(median "$2" wall)
    echo "| $1 | $wall | $(median "$2" cpu) | $(ratio "$tokens" "$wall") | $(median "$2" rss) |" \
        "$(measure field tokens_per_second "$scratch/$2"-*.json) | $(measure field perplexity "$scratch/$2"-*.json) |"
}
cat <<TEXT
$(measure machine); $threads threads; $(basename "$model"), $(stat -L -c %s "$model") bytes; $chunks windows of $ctx
tokens; medians of $repeat, whole processes. llama.cpp: batches of 2048, flash attention off.

| | s | CPU s | tokens/s | peak MB | tokens/s without loading | perplexity |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
$(row plmconv ours)
$(row llama.cpp peer)

plmconv is $(ratio "$(median peer wall)" "$(median ours wall)") times as fast.
TEXT
