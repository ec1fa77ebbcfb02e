#!/usr/bin/env bash
# Both layouts of a model in llama.cpp, at several depths of the cache: tokens a second read and generated, memory.
# Prints a Markdown table. `plm` runs without flash attention only (with it, today's llama.cpp aborts).
#
#   benches/layouts.sh FOLDER            a PLM checkpoint; `benches/random_plm.py FOLDER` writes one of full size
#
#   TYPE=q4
#   RUNS="plm:off latent:on latent:off"  layouts, each with flash attention on or off
#   DEPTHS=0,4096,16384                  tokens in the cache: keys and values of the first 512, over and over (what they
#                                        are does not change how long anything takes); COMPUTE_DEPTHS=1 computes all
#   PROMPT=128 GENERATE=32               tokens read and generated at each depth
#   THREADS=$(nproc)
#   SCRATCH=DIR                          where the two files go, and are used again if they are there; a new folder in
#                                        target/ by default, removed at the end
set -euo pipefail
source "$(dirname "$0")/common.sh"
expect_arguments 1 $#
model="$(realpath "$1")"
enter_repository
type="${TYPE:-q4}"
threads="${THREADS:-$(nproc)}"
build
mkdir -p target
if [ -z "${SCRATCH:-}" ]; then
    scratch="$(mktemp -d -p target bench.XXXXXX)"
    trap 'rm -rf "$scratch"' EXIT
else
    scratch="$SCRATCH"
    mkdir -p "$scratch"
fi

echo "$(measure machine); $threads threads; $(basename "$model") as $type"
echo
echo "| layout | flash attention | file MB | cells | cache MB | peak MB | tokens in the cache | read t/s | generated t/s |"
echo "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
for run in ${RUNS:-plm:off latent:on latent:off}; do
    layout="${run%:*}" flash="${run#*:}"
    file="$scratch/$layout.gguf"
    [ -e "$file" ] || "$OURS" quantize "$type" "$model" --layout "$layout" --quiet -o "$file" >&2
    flags=()
    [ "$flash" = off ] || flags=(--flash-attention)
    [ -z "${COMPUTE_DEPTHS:-}" ] || flags+=(--compute-depths)
    "$PEERS/llama_generate" "$file" --depths "${DEPTHS:-0,4096,16384}" --prompt "${PROMPT:-128}" \
        --generate "${GENERATE:-32}" --threads "$threads" "${flags[@]}" >"$scratch/$layout.json"
    python3 - "$layout | $flash" "$file" "$scratch/$layout.json" <<'PYTHON'
import json, os, sys

layout, file, report = sys.argv[1:]
with open(report, encoding="utf-8") as opened:
    result = json.load(opened)
head = (f"{layout} | {os.path.getsize(file) / 1e6:.0f} | {result['n_ctx']} | {result['kv_cache_bytes'] / 1e6:.0f}"
        f" | {result['peak_resident_bytes'] / 1e6:.0f}")
for speed in result["speeds"]:
    print(f"| {head} | {speed['depth']} | {speed['prompt']:.1f} | {speed['generate']:.1f} |")
PYTHON
done
