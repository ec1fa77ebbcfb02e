# Shared by the scripts beside it: builds both sides and finds the tools. Sourced, not run.
set -euo pipefail

# expect_arguments WANTED GIVEN: else prints the comment that heads the script, which says how to call it. `3+` wants
# three or more.
expect_arguments() {
    case "$1" in
        *+) [ "$2" -ge "${1%+}" ] && return ;;
        *) [ "$2" -eq "$1" ] && return ;;
    esac
    sed -n '2,/^set/p' "$0" | sed '$d' | sed 's/^# \{0,1\}//' >&2
    exit 2
}

# To the repository's root; paths among the arguments are resolved before.
enter_repository() { cd "$(dirname "${BASH_SOURCE[0]}")/.."; }

measure() { python3 benches/measure.py "$@"; }

need() {
    command -v "$1" >/dev/null || {
        echo "this needs $1 (Debian: apt-get install $2)" >&2
        exit 1
    }
}

# Sets `plmconv`: $PLMCONV, or the release build, made where it is missing.
find_plmconv() {
    plmconv="${PLMCONV:-target/release/plmconv}"
    [ -x "$plmconv" ] || cargo build --release --quiet -p plmconv >&2
}

# Sets `scratch`: a new folder in target/, removed at the end.
make_scratch() {
    mkdir -p target
    scratch="$(mktemp -d -p target bench.XXXXXX)"
    trap 'rm -rf "$scratch"' EXIT
}

# Sets OURS and PEERS: plmconv as anyone builds it (it chooses its instruction set at run time), and llama.cpp as its
# users build it, for the machine at hand.
build() {
    need cargo rustup
    need cmake "cmake libclang-dev build-essential"
    need python3 python3
    local target="${CARGO_TARGET_DIR:-$PWD/target}"
    cargo build --release --quiet -p plmconv >&2
    RUSTFLAGS="-C target-cpu=native" \
        cargo build --release --quiet -p plmconv-interop --bins --target-dir "$target/native" >&2
    OURS="$target/release/plmconv"
    PEERS="$target/native/release"
}

# Sets `texts` and `models`, by full paths, from arguments TEXT... -- FOLDER...
take_texts_and_models() {
    texts=() models=()
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        texts+=("$(realpath "$1")")
        shift
    done
    local model
    for model in "${@:2}"; do models+=("$(realpath "$model")"); done
}

# validate CANDIDATE MODEL TEXT OPTIONS...: what $plmconv says of it, as JSON in $scratch/report.json.
validate() {
    # Exit code 3 says that the divergence is above a limit: a result like any other here.
    "$plmconv" validate "$1" --against "$2" --text "$3" --ctx "${CTX:-256}" --chunks "${CHUNKS:-60}" --json --quiet \
        "${@:4}" >"$scratch/report.json" 2>"$scratch/report.log" || [ $? -eq 3 ] || {
        cat "$scratch/report.log" >&2
        return 1
    }
}

# The weights of a model folder, one a line.
weights() { find -L "$1" -maxdepth 1 -name '*.safetensors' | sort; }

ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", (b > 0 ? a / b : 0) }'; }
