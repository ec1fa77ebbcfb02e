#!/usr/bin/env bash
# release-notes.sh VERSION: what CHANGELOG.md says of a release.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$#" -eq 1 ] || { sed -n '2s/^# //p' "$0" >&2; exit 2; }
notes="$(awk -v wanted="## [$1]" '
    index($0, wanted) == 1 { found = 1; next }
    found && /^## \[/ { exit }
    found' CHANGELOG.md)"
[ -n "$notes" ] || { echo "CHANGELOG.md has no release $1" >&2; exit 1; }
echo "$notes"
