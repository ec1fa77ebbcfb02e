#!/usr/bin/env bash
# The one step of the action: validates, writes the reports, and tells GitHub the verdict. What the action is given stands
# in variables; without those of GitHub it runs anywhere.
set -euo pipefail
reports="${REPORTS:-parity}"
mkdir -p "$reports"
arguments=("$CANDIDATE" --against "$REFERENCE" --json)
[ -z "${TEXT:-}" ] || arguments+=(--text "$TEXT")
# Several arguments in one input.
read -ra more <<<"${ARGUMENTS:-}"
code=0
result="$("${PLMCONV:-plmconv}" validate "${arguments[@]}" ${more[@]+"${more[@]}"} \
    --junit "$reports/parity.xml" --markdown "$reports/parity.md" --html "$reports/parity.html")" || code=$?
# 3 is a verdict, all else is none.
[ "$code" -eq 0 ] || [ "$code" -eq 3 ] || exit "$code"
{
    echo "passed=$([ "$code" -eq 0 ] && echo true || echo false)"
    echo "mean-kld=$(awk '/"kl_divergence"/ { inside = 1 } inside && /"mean"/ { sub(/,$/, "", $2); print $2; exit }' <<<"$result")"
} >>"${GITHUB_OUTPUT:-/dev/stdout}"
cat "$reports/parity.md" >>"${GITHUB_STEP_SUMMARY:-/dev/stdout}"
exit "$code"
