#!/usr/bin/env bash
# Fuzzes plmconv's readers and a whole conversion, each target for so many seconds, or for so many runs:
#   fuzz/run.sh SECONDS [TARGET...]
#   fuzz/run.sh --runs N [TARGET...]
#   fuzz/run.sh --build            only builds and prints the targets
# Any toolchain that builds plmconv will do, and a C++ compiler for libFuzzer. Inputs that are found interesting stay
# in fuzz/corpus, those that fail in fuzz/artifacts; `fuzz/run.sh --input TARGET FILE` runs one again.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# What cargo-fuzz passes for coverage. With a --target neither build scripts nor macros are instrumented.
build() {
    local host flags
    host="$(rustc -vV | sed -n 's/^host: //p')"
    flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
    flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
    flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
    RUSTFLAGS="$flags" cargo build --release --locked --target "$host" ${JOBS:+-j "$JOBS"}
    program="${CARGO_TARGET_DIR:-$PWD/target}/$host/release/plmconv-fuzz"
}

# Longest inputs: what libFuzzer tries besides what its corpus holds.
longest() {
    case "$1" in
        config | adapter | journal | blocks | template | card) echo 4096 ;;
        imatrix_dat | reference | statistics | gguf_set | safetensors) echo 16384 ;;
        conversion | describe) echo 8192 ;;
        *) echo 32768 ;;
    esac
}

fuzz() {
    local target="$1" limit="$2" log
    mkdir -p "corpus/$target" artifacts
    log="artifacts/$target.log"
    if ! PLMCONV_FUZZ_TARGET="$target" PLMCONV_FUZZ_SEEDS="corpus/$target" "$program" >/dev/null 2>"$log"; then
        tail -n 40 "$log" >&2
        echo "FAILED: $target: no seeds" >&2
        return 1
    fi
    if ! PLMCONV_FUZZ_TARGET="$target" "$program" "$limit" -max_len="$(longest "$target")" -timeout=10 \
        -rss_limit_mb=512 -print_final_stats=1 -artifact_prefix="artifacts/$target-" "corpus/$target" \
        >/dev/null 2>"$log"; then
        grep -A 2 'panicked at' "$log" >&2 || true
        grep 'libFuzzer' "$log" >&2 || true
        echo "FAILED: $target; fuzz/artifacts holds the input, fuzz/$log the whole output" >&2
        return 1
    fi
    awk -v target="$target" '
        /stat::number_of_executed_units/ { runs = $2 }
        /stat::average_exec_per_sec/ { speed = $2 }
        /stat::peak_rss_mb/ { memory = $2 }
        match($0, /cov: [0-9]+/) { cover = substr($0, RSTART + 5, RLENGTH - 5) }
        END { printf "%-14s %12d runs %8d/s %6d places %5d MB\n", target, runs, speed, cover, memory }' "$log"
}

[ "$#" -gt 0 ] || usage
case "$1" in
    --build | --input) limit="" ;;
    --runs) [[ "${2:-}" =~ ^[0-9]+$ ]] || usage; limit="-runs=$2"; shift ;;
    *) [[ "$1" =~ ^[0-9]+$ ]] || usage; limit="-max_total_time=$1" ;;
esac
build
# Asked for a target that there is not, it lists those that there are.
names="$({ PLMCONV_FUZZ_TARGET=none "$program" 2>&1 || true; } | sed -n 's/.*one of: //p')"
case "$1" in
    --build) echo "$names"; exit ;;
    --input) [ "$#" -eq 3 ] || usage; PLMCONV_FUZZ_TARGET="$2" exec "$program" "$3" ;;
esac
shift
if [ "$#" -eq 0 ]; then
    read -ra targets <<<"$names"
    set -- "${targets[@]}"
fi
# As many at a time as there are cores: a target uses one.
export program limit
export -f fuzz longest
failed=0
printf '%s\n' "$@" | xargs -P "${JOBS:-$(nproc)}" -I {} bash -c 'fuzz "$1" "$limit"' bash {} || failed=1
rm -rf /dev/shm/plmconv-fuzz-*
exit "$failed"
