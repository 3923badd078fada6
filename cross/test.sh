#!/usr/bin/env bash
# Runs the aarch64 daemon under qemu-user on this machine, with the aarch64 ONNX Runtime: its check with the default model's
# self-test, a question over the socket, one over MQTT with a real Mosquitto, and 50 questions beside this machine's own
# build, answer by answer. Stops what it starts.
#   cross/test.sh [QUESTIONS]
# NATIVE: this machine's build, target/release/moed.
set -euo pipefail
cd "$(dirname "$0")/.."
native=$(readlink -f "${NATIVE:-target/release/moed}")
count=${1:-50}
cross/setup.sh --emulation
.ci/need-mosquitto
emulate=$PWD/.cross/emulate
foreign=$PWD/target/cross/aarch64-unknown-linux-gnu/release/moed
mosquitto=$PWD/.tools/mosquitto/bin
[ -x "$foreign" ] || { echo "error: there is no $foreign: \`make cross\` builds it" >&2; exit 69; }
[ -x "$native" ] || { echo "error: there is no $native to compare with: \`make build\` builds it" >&2; exit 69; }
home=$(mktemp -d)
running=()
finish() {
  status=$?
  for ((i = ${#running[@]} - 1; i >= 0; i--)); do
    kill "${running[i]}" 2>/dev/null || true
    wait "${running[i]}" 2>/dev/null || true
  done
  [ $status -eq 0 ] || tail -n 40 "$home"/*.log >&2
  rm -rf "$home"
  exit $status
}
trap finish EXIT INT TERM
step() { printf '\n== %s\n' "$1"; }
# Waits for a command to succeed, at most 5 minutes: emulated it is 20 times slower.
until_ok() {
  local end=$((SECONDS + 300))
  while [ $SECONDS -lt $end ]; do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done
  echo "error: gave up waiting for: $*" >&2
  return 1
}
config() { # NAME RUNTIME [MQTT URL]
  cat > "$home/$1.toml" <<CONFIG
[node]
name = "$1"
[socket]
path = "$home/$1.sock"
[mqtt]
url = "${3:-}"
[model]
dir = "$PWD/models/default"
prepared = "$home/$1.prepared"
[engine]
threads = 1
[journal]
dir = "$home/$1.journal"
[runtime]
onnxruntime = "$2"
CONFIG
}

step "what it is"
cross/floor.sh "$foreign" AArch64 2.31
"$emulate" "$foreign" --version

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf 'listener %s 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\npersistence false\n' "$port" > "$home/mosquitto.conf"
[ "$(id -u)" != 0 ] || echo 'user root' >> "$home/mosquitto.conf"
"$mosquitto/mosquitto" -c "$home/mosquitto.conf" > "$home/mosquitto.log" 2>&1 &
running+=($!)
config arm "$PWD/.cross/runtime/libonnxruntime.so" "mqtt://127.0.0.1:$port"
config here "$PWD/.runtime/libonnxruntime.so"

step "check, and the default model's self-test"
"$emulate" "$foreign" check --models --config "$home/arm.toml" | tail -n 2 | tee "$home/check.txt"
grep -q "self-test passed on cpu" "$home/check.txt"

step "the doctor"
"$emulate" "$foreign" doctor --config "$home/arm.toml" --runtime

"$emulate" "$foreign" serve --config "$home/arm.toml" 2> "$home/arm.log" &
running+=($!)
"$native" serve --config "$home/here.toml" 2> "$home/here.log" &
running+=($!)
until_ok "$native" ask --socket "$home/here.sock" --max-tokens 1 hello
until_ok "$native" ask --socket "$home/arm.sock" --max-tokens 1 hello

step "a question over the socket"
devices=$(cat tests/demo/devices.txt)
question=(--max-tokens 60 --system "$devices" --tools tests/demo/tools.json "Turn on the floor lamp")
said=$("$emulate" "$foreign" ask --socket "$home/arm.sock" "${question[@]}")
here=$("$native" ask --socket "$home/here.sock" "${question[@]}")
printf '%s\n' "$said"
[ "$said" = "$here" ] || { printf 'error: here it is\n%s\n' "$here" >&2; exit 1; }

step "a question over MQTT 5"
request=$(python3 - tests/demo/devices.txt tests/demo/tools.json <<'PYTHON'
import json, sys
devices, tools = sys.argv[1:]
messages = [{"role": "system", "content": open(devices).read().strip()}, {"role": "user", "content": "Turn on the floor lamp"}]
print(json.dumps({"v": 1, "id": "7", "messages": messages, "tools": json.load(open(tools)), "params": {"max_tokens": 60}}))
PYTHON
)
until_ok "$mosquitto/mosquitto_sub" -p "$port" -t moed/v1/node/arm/available -C 1 -W 1
"$mosquitto/mosquitto_rr" -V 5 -p "$port" -q 1 -W 120 -t moed/v1/node/arm/c/panel/request -e moed/v1/c/panel/r/7 -m "$request" |
  tee "$home/result.json"
grep -q '"type":"result"' "$home/result.json"

step "$count questions, here and on aarch64"
python3 cross/compare.py "$home/here.sock" "$home/arm.sock" "$count"

step "it ends when it is told to"
kill -TERM "${running[1]}"
wait "${running[1]}"
echo "ended with 0"
unset "running[1]"
running=("${running[@]}")
