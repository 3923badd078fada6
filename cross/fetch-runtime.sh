#!/usr/bin/env bash
# Fetches the pinned ONNX Runtime for this (or the named) architecture into .runtime/ and checks its digest.
#   cross/fetch-runtime.sh [x86_64|aarch64] [FOLDER]
# Needs python3 with pip. Does nothing when the library is there already.
set -euo pipefail
cd "$(dirname "$0")/.."
architecture=${1:-$(uname -m)}
folder=${2:-.runtime}

# One key of one table of runtimes.toml.
pin() {
  awk -v table="[$architecture-cpu]" -v key="$1" \
    '$0 == table { inside = 1; next } /^\[/ { inside = 0 } inside && $1 == key { gsub(/"/, "", $3); print $3 }' cross/runtimes.toml
}
version=$(pin version)
[ -n "$version" ] || { echo "error: no pinned ONNX Runtime for '$architecture' in cross/runtimes.toml" >&2; exit 78; }
library="$folder/libonnxruntime.so.$version"
if [ -f "$library" ] && [ "$(cat "$folder/origin.sha256" 2>/dev/null)" = "$(pin wheel_sha256)" ]; then exit 0; fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
pip=(python3 -m pip)
if ! "${pip[@]}" --version >/dev/null 2>&1; then
  python3 -m venv "$scratch/venv"
  pip=("$scratch/venv/bin/python" -m pip)
fi
echo "fetching $(pin package) for $architecture" >&2
"${pip[@]}" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
  --python-version 3.12 --platform "$(pin platform)" --dest "$scratch" "$(pin package)" >&2
wheel=$(echo "$scratch"/*.whl)
found=$(sha256sum "$wheel" | cut -d' ' -f1)
[ "$found" = "$(pin wheel_sha256)" ] || {
  echo "error: digest of $(basename "$wheel") is $found, cross/runtimes.toml pins $(pin wheel_sha256)" >&2
  exit 70
}
mkdir -p "$folder"
python3 - "$wheel" "$(pin library)" "$scratch" <<'PYTHON'
import sys, zipfile
wheel, library, scratch = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for name in (library, "onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"):
        archive.extract(name, scratch)
PYTHON
install -m 0644 "$scratch/onnxruntime/LICENSE" "$scratch/onnxruntime/ThirdPartyNotices.txt" "$folder/"
install -m 0755 "$scratch/$(pin library)" "$library"
ln -sfn "$(basename "$library")" "$folder/libonnxruntime.so"
pin wheel_sha256 > "$folder/origin.sha256"
