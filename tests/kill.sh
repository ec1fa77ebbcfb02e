#!/usr/bin/env bash
# Kills plmconv (SIGKILL) at random moments, or at every rename and removal, and looks at what stands under the output's
# name: nothing, the old output whole, or the new one whole. Then the same command runs to its end and no leftover may
# lie there any more. Ends with a table, and exit code 1 if anything did not hold.
set -euo pipefail

usage() {
    cat <<'EOF'
usage: tests/kill.sh [-n KILLS] [-s SEED] [-c] [KIND...]
  -n KILLS  kills at random moments for each kind, half of them over an old output with --force [default: 100]
  -s SEED   of the moments [default: 1]
  -c        instead of random moments, every system call that renames or removes, in turn (needs strace)
  KIND      gguf split resplit onnx calibrate guided reference report [default: all]
PLMCONV_BIN names the program [default: target/debug/plmconv]. Uses $TMPDIR.
EOF
}

kills=100 seed=1 calls=0
while getopts "n:s:ch" option; do
    case "$option" in
        n) kills="$OPTARG" ;;
        s) seed="$OPTARG" ;;
        c) calls=1 ;;
        h) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
kinds=("$@")
[ "${#kinds[@]}" -gt 0 ] || kinds=(gguf split resplit onnx calibrate guided reference report)

cd "$(dirname "$0")/.."
program="$(realpath "${PLMCONV_BIN:-target/debug/plmconv}")"
model="$PWD/fixtures/tiny-plm" text="$PWD/fixtures/text/own.txt"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
sample=(--calibration-ctx 64 --calibration-chunks 2)

# A whole number below $1 that the seed decides.
RANDOM="$seed"
below() { echo $(((RANDOM * 32768 + RANDOM) % $1)); }

# arguments KIND old|new: sets `arguments`, those that write the old or the new output into the current folder.
arguments() {
    case "$1-$2" in
        gguf-old) arguments=(quantize q8 "$model" -o out.gguf) ;;
        gguf-new) arguments=(quantize q4 "$model" -o out.gguf) ;;
        split-old) arguments=(quantize q8 "$model" --split-max-size 2M --tensor-type '.=q8_0' -o out.gguf) ;;
        split-new) arguments=(quantize q8 "$model" --split-max-size 2M --layout plm --tensor-type 'ffn_down=q5_0' -o out.gguf) ;;
        resplit-old) arguments=(quantize q8 "$model" --split-max-size 1M -o out.gguf) ;;
        resplit-new) arguments=(quantize q8 "$model" --split-max-size 3M -o out.gguf) ;;
        onnx-old) arguments=(quantize q8 "$model" --to onnx -o out) ;;
        onnx-new) arguments=(quantize q4 "$model" --to onnx -o out) ;;
        calibrate-old) arguments=(calibrate "$model" --text "$text" "${sample[@]}" --seed 1 -o out.gguf) ;;
        calibrate-new) arguments=(calibrate "$model" --text "$text" "${sample[@]}" -o out.gguf) ;;
        guided-old) arguments=(quantize q8 "$model" -o out.gguf) ;;
        guided-new) arguments=(quantize q4_0 "$model" --effort fast --calibrate "$text" "${sample[@]}" -o out.gguf) ;;
        reference-old) arguments=(reference "$model" --text "$text" --ctx 64 --chunks 1 -o out) ;;
        reference-new) arguments=(reference "$model" --text "$text" --ctx 64 --chunks 2 -o out) ;;
        report-old) arguments=(validate "$model" --against "$model" --text "$text" --ctx 64 --chunks 1 --markdown out) ;;
        report-new) arguments=(validate "$model" --against "$model" --text "$text" --ctx 64 --chunks 2 --markdown out) ;;
        *) echo "no such kind: $1" >&2; exit 2 ;;
    esac
}

# What stands in a folder, as one line: every file that is no leftover, with its digest. Times are no content.
state() {
    (cd "$1" && find . -type f -not -path '*/.plmconv-*' -not -name '*.partial' -not -name '*.partial.*statistics' | LC_ALL=C sort |
        while read -r file; do echo "$file $(sed -E 's/[0-9.]+ (s|tokens\/s|tokens a second)//g' "$file" | sha256sum)"; done) | tr '\n' ';'
}

# What a reader would open of an output: the first shard of a set, else the file or folder itself.
opened() { (cd "$1" && ls | grep -E '^out(-00001-of-[0-9]+)?(\.gguf)?$'); }

# holds STATE PART: every file of the second state is in the first.
holds() {
    local file
    while IFS= read -r -d ';' file; do [[ ";$1" == *";$file;"* ]] || return 1; done <<<"$2"
}

failures=0
fail() {
    echo "FAILED: $*" >&2
    ls -lA "$folder" >&2
    failures=$((failures + 1))
}

# run FOLDER ARGUMENT...: to its end, without a word.
run() { (cd "$1" && shift && exec "$program" "$@" >/dev/null 2>"$work/err" </dev/null); }

# judge KIND MODE: counts what the kill left in $folder, and runs the same command to its end.
judge() {
    local found name what=nothing
    found="$(state "$folder")"
    for name in $(opened "$folder"); do
        if [ -e "$work/new/$name" ] && holds "$found" "$new"; then
            what=new
        elif [ "$2" = over ] && [ -e "$work/old/$name" ] && holds "$found" "$old"; then
            [ "$what" = new ] || what=old
        else
            fail "$1 $2: what opens as $name is neither the old output nor the new one"
        fi
    done
    # Only a set of another number of shards may stand beside the other one.
    [ "$1" = resplit ] || [ "$what" = nothing ] || [ "$found" = "${!what}" ] || fail "$1 $2: more than the $what output"
    counts[$what]=$((counts[$what] + 1))
    [ -z "$(find "$folder" -maxdepth 1 -name '.plmconv-*' -print -quit)" ] || counts[leftovers]=$((counts[leftovers] + 1))
    local extra=()
    [ "$1" = report ] || extra=(--force)
    run "$folder" "${arguments[@]}" "${extra[@]}" || fail "$1 $2: the next run: $(cat "$work/err")"
    [ "$(state "$folder")" = "$new" ] || fail "$1 $2: the next run wrote something else"
    [ "$(ls -A "$folder")" = "$new_names" ] || fail "$1 $2: leftovers after the next run"
}

# prepare MODE: a fresh folder, with the old output or empty; sets `flags`.
prepare() {
    rm -rf "$folder"
    flags=()
    if [ "$1" = over ]; then
        cp -r "$work/old" "$folder"
        [ "$kind" = report ] || flags=(--force)
    else
        mkdir "$folder"
    fi
}

# kill_at CALL NUMBER: kills the run when it is about to make that call for that time; fails if it never does.
kill_at() {
    local status=0
    (cd "$folder" && exec strace -f -qq -o /dev/null -e trace="$1" -e inject="$1":signal=KILL:when="$2" \
        "$program" "${arguments[@]}" "${flags[@]}" >/dev/null 2>&1 </dev/null) &
    wait "$!" 2>/dev/null || status=$?
    [ "$status" -eq 137 ] || [ "$status" -eq 0 ] || fail "exit code $status under strace"
    [ "$status" -eq 137 ]
}

# kill_after MICROSECONDS
kill_after() {
    (cd "$folder" && exec "$program" "${arguments[@]}" "${flags[@]}" >/dev/null 2>&1 </dev/null) &
    sleep "$(($1 / 1000000)).$(printf '%06d' $(($1 % 1000000)))"
    kill -KILL "$!" 2>/dev/null || true
    wait "$!" 2>/dev/null || true
}

folder="$work/folder"
rows=()
for kind in "${kinds[@]}"; do
    rm -rf "$work/old" "$work/new"
    mkdir "$work/old" "$work/new"
    arguments "$kind" old
    run "$work/old" "${arguments[@]}" || { cat "$work/err" >&2; exit 1; }
    arguments "$kind" new
    began="$(date +%s%N)"
    run "$work/new" "${arguments[@]}" || { cat "$work/err" >&2; exit 1; }
    micros=$((($(date +%s%N) - began) / 1000))
    old="$(state "$work/old")" new="$(state "$work/new")" new_names="$(ls -A "$work/new")"
    [ "$old" != "$new" ] || { echo "$kind: old and new are the same" >&2; exit 1; }
    for mode in fresh over; do
        declare -A counts=([nothing]=0 [old]=0 [new]=0 [leftovers]=0 [kills]=0)
        if [ "$calls" = 1 ]; then
            # strace counts each call on its own.
            for call in rename renameat renameat2 link linkat unlink unlinkat rmdir; do
                for ((number = 1; ; number++)); do
                    prepare "$mode"
                    kill_at "$call" "$number" || break
                    counts[kills]=$((counts[kills] + 1))
                    judge "$kind" "$mode"
                done
            done
        else
            for ((number = 0; number < kills / 2; number++)); do
                prepare "$mode"
                kill_after "$(below $((micros * 11 / 10)))"
                counts[kills]=$((counts[kills] + 1))
                judge "$kind" "$mode"
            done
        fi
        rows+=("$(printf '%-10s %-6s %6d %8d %6d %6d %10d' "$kind" "$mode" "${counts[kills]}" "${counts[nothing]}" \
            "${counts[old]}" "${counts[new]}" "${counts[leftovers]}")")
        echo "${rows[-1]}" >&2
    done
done

if [ "$calls" = 1 ]; then
    echo "killed at every rename and removal; $(uname -sm)"
else
    echo "killed at random moments, seed $seed; $(uname -sm)"
fi
printf '%-10s %-6s %6s %8s %6s %6s %10s\n' kind over kills nothing old new leftovers
printf '%s\n' "${rows[@]}"
echo "$failures failures"
[ "$failures" -eq 0 ]
