#!/usr/bin/env bash
# What this machine's NVIDIA GPU makes of moed: the doctor, a kernel on the provider, the model's self-test with no work left
# to the CPU, the bench on both. Writes tests/reports/gpu-NAME.json. Exits 69 without a GPU, and 70 where any step fails; a
# report is written then too, with what was said.
#   cross/gpu-check.sh
# RUNTIME: the folder of an ONNX Runtime with CUDA; else the pinned one is fetched, whose CUDA 13 and cuDNN 9 must be there.
# MODEL: the folder to measure, models/default. BINARY: target/release/moed. ROUNDS: samples a row, 10.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${BINARY:=target/release/moed}" "${MODEL:=models/default}" "${ROUNDS:=10}"
if [ ! -e /dev/nvidiactl ] && [ ! -e /dev/nvmap ]; then
  echo "error: there is no NVIDIA GPU here (neither /dev/nvidiactl nor /dev/nvmap): nothing was checked" >&2
  exit 69
fi
[ -x "$BINARY" ] || { echo "error: there is no $BINARY: \`make build\` builds it" >&2; exit 69; }
if [ -z "${RUNTIME:-}" ]; then
  RUNTIME=.runtime-$(uname -m)-cuda13
  cross/fetch-runtime.sh "$(uname -m)-cuda13" "$RUNTIME"
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
config() { # PROVIDER
  printf '[model]\ndir = "%s"\nprepared = "%s"\n[engine]\nprovider = "%s"\n[journal]\ndir = "%s"\n[runtime]\nonnxruntime = "%s"\n' \
    "$(realpath "$MODEL")" "$scratch/prepared-$1" "$1" "$scratch" "$(realpath "$RUNTIME")/libonnxruntime.so" > "$scratch/$1.toml"
}
config cuda
config cpu
failed=0
# step NAME COMMAND...: its output is kept, its failure is remembered.
step() {
  local name=$1
  shift
  echo "== $name"
  if ! "$@" > "$scratch/$name.out" 2> "$scratch/$name.err"; then
    failed=1
    cat "$scratch/$name.out" "$scratch/$name.err"
  fi
}
step doctor "$BINARY" doctor --json --config "$scratch/cuda.toml"
step check "$BINARY" check --models --config "$scratch/cuda.toml"
step bench-cuda "$BINARY" bench "$MODEL" --json --rounds "$ROUNDS" --config "$scratch/cuda.toml"
step bench-cpu "$BINARY" bench "$MODEL" --json --rounds "$ROUNDS" --config "$scratch/cpu.toml"
python3 - "$scratch" "$MODEL" "$("$BINARY" --version)" "$(git rev-parse HEAD 2>/dev/null || echo unknown)" <<'PYTHON'
import json, os, re, sys
from datetime import datetime, timezone

scratch, model, version, commit = sys.argv[1:]
def said(name):
    texts = [open(os.path.join(scratch, f"{name}.{kind}"), errors="replace").read() for kind in ("out", "err")]
    try:
        return json.loads(texts[0])
    except ValueError:
        return {"said": texts}
report = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "version": version, "commit": commit, "model": model}
report |= {name: said(name) for name in ("doctor", "check", "bench-cuda", "bench-cpu")}
gpus = report["doctor"].get("gpu", {}).get("gpus") or [{"name": "unknown"}]
slug = re.sub(r"[^a-z0-9]+", "-", gpus[0]["name"].lower()).strip("-")
path = f"tests/reports/gpu-{slug}.json"
with open(path, "w") as file:
    json.dump(report, file, indent=1)
    file.write("\n")
print(path)
PYTHON
[ $failed = 0 ] || { echo "error: the GPU does not do what it should; the report says what was said" >&2; exit 70; }
