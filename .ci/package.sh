#!/usr/bin/env bash
# package.sh TARGET FOLDER: the archive of a release for one target, with licences, man pages and completions, and the
# archive's SHA-256 beside it.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$#" -eq 2 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
target="$1"
mkdir -p "$2"
folder="$(cd "$2" && pwd)"

cargo build --locked --release --target "$target"
suffix=""
[[ "$target" != *windows* ]] || suffix=.exe
program="${CARGO_TARGET_DIR:-$PWD/target}/$target/release/plmconv$suffix"
version="$("$program" --version | awk '{ print $2 }')"
name="plmconv-$version-$target"

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/$name/man" "$scratch/$name/completions"
cp "$program" README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$scratch/$name"
"$program" man >"$scratch/$name/man/plmconv.1"
for command in $("$program" --help | awk '/^Commands:/ { listed = 1; next } /^$/ { listed = 0 } listed && $1 != "help" { print $1 }'); do
    "$program" man "$command" >"$scratch/$name/man/plmconv-$command.1"
done
for shell in bash zsh fish powershell elvish; do
    "$program" completions "$shell" >"$scratch/$name/completions/plmconv.$shell"
done
tar -C "$scratch" -czf "$folder/$name.tar.gz" "$name"
(cd "$folder" && { command -v sha256sum >/dev/null && sha256sum "$name.tar.gz" || shasum -a 256 "$name.tar.gz"; } \
    >"$name.tar.gz.sha256")
echo "$folder/$name.tar.gz"
