#!/usr/bin/env bash
# What a newcomer does: the wheel in a fresh environment, a model by its name on the hub (served on loopback), an adapter
# merged into it, and a file that llama.cpp runs. Wants the stages wheel and llama.cpp before it.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-$PWD/target}"
scratch="$(mktemp -d)"
server=""
trap '[ -z "$server" ] || kill "$server"; rm -rf "$scratch"' EXIT

"$target/wheel-venv/bin/python" python/tests/hub.py plm/tiny-plm fixtures/tiny-plm >"$scratch/address" &
server=$!
for _ in $(seq 50); do
    [ -s "$scratch/address" ] && break
    sleep 0.1
done
export HF_ENDPOINT HF_HOME="$scratch/hub"
HF_ENDPOINT="$(cat "$scratch/address")"
"$target/wheel-venv/bin/plmconv" quantize q4 plm/tiny-plm --lora fixtures/tiny-lora -o "$scratch/model.gguf"
"$target/release/llama_perplexity" "$scratch/model.gguf" fixtures/text/own.txt --ctx 64 --chunks 8 >"$scratch/report.json"
"$target/wheel-venv/bin/python" - "$scratch/report.json" <<'EOF'
import json, sys

report = json.load(open(sys.argv[1]))
print("perplexity in llama.cpp:", report["perplexity"])
# Of noise it would be the size of the vocabulary.
assert report["perplexity"] < 1000
EOF
