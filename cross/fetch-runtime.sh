#!/usr/bin/env bash
# Fetches the pinned ONNX Runtime of a target into a folder and checks its digest.
#   cross/fetch-runtime.sh [TARGET] [FOLDER]
# TARGET: a table of runtimes.toml, as `x86_64-cpu` or `aarch64-cuda13`; an architecture alone means its CPU build; this
# machine's without one. FOLDER: .runtime/, and .runtime-TARGET/ for the CUDA builds.
# Needs python3 with pip. Does nothing when the library is there already.
set -euo pipefail
cd "$(dirname "$0")/.."
pins=cross/runtimes.toml
target=${1:-$(uname -m)}
case $target in x86_64 | aarch64) target=$target-cpu ;; esac
case $target in *-cpu) folder=${2:-.runtime} ;; *) folder=${2:-.runtime-$target} ;; esac

# One key of the target's table.
pin() {
  awk -v table="[$target]" -v key="$1" \
    '$0 == table { inside = 1; next } /^\[/ { inside = 0 } inside && $1 == key { sub(/^[^"]*"/, ""); sub(/"[^"]*$/, ""); print }' $pins
}
how=$(pin how)
[ -z "$how" ] || { echo "error: no build for \`$target\` is published with a digest: $how" >&2; exit 69; }
version=$(pin version)
[ -n "$version" ] || {
  echo "error: \`$target\` is no target of $pins: $(sed -n 's/^\[\(.*\)\]/\1/p' $pins | paste -sd' ')" >&2
  exit 78
}
library="$folder/libonnxruntime.so.$version"
if [ -f "$library" ] && [ "$(cat "$folder/origin.sha256" 2>/dev/null)" = "$(pin wheel_sha256)" ]; then exit 0; fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
pip=(python3 -m pip)
if ! "${pip[@]}" --version >/dev/null 2>&1; then
  python3 -m venv "$scratch/venv"
  pip=("$scratch/venv/bin/python" -m pip)
fi
echo "fetching $(pin package) for $target" >&2
"${pip[@]}" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
  --python-version 3.12 --platform "$(pin platform)" --dest "$scratch" "$(pin package)" >&2
wheel=$(echo "$scratch"/*.whl)
found=$(sha256sum "$wheel" | cut -d' ' -f1)
[ "$found" = "$(pin wheel_sha256)" ] || {
  echo "error: digest of $(basename "$wheel") is $found, $pins pins $(pin wheel_sha256)" >&2
  exit 70
}
mkdir -p "$folder"
# shellcheck disable=SC2046
python3 - "$wheel" "$scratch" $(pin library) $(pin beside) <<'PYTHON'
import sys, zipfile
wheel, scratch, *libraries = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for name in (*libraries, "onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"):
        archive.extract(name, scratch)
PYTHON
install -m 0644 "$scratch/onnxruntime/LICENSE" "$scratch/onnxruntime/ThirdPartyNotices.txt" "$folder/"
for file in $(pin beside); do install -m 0755 "$scratch/$file" "$folder/"; done
install -m 0755 "$scratch/$(pin library)" "$library"
ln -sfn "$(basename "$library")" "$folder/libonnxruntime.so"
pin wheel_sha256 > "$folder/origin.sha256"
