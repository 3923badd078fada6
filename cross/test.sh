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
# shellcheck source=tests/demo/stage.sh
. tests/demo/stage.sh
# Emulated it is 20 times slower.
patience=300
step() { printf '\n== %s\n' "$1"; }
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

start_broker "$mosquitto"
config arm "$PWD/.cross/runtime/libonnxruntime.so" "mqtt://127.0.0.1:$port"
config here "$PWD/.runtime/libonnxruntime.so"

step "check, and the default model's self-test"
"$emulate" "$foreign" check --models --config "$home/arm.toml" | tail -n 2 | tee "$home/check.txt"
grep -q "self-test passed on cpu" "$home/check.txt"

step "the doctor"
# The doctor tries a library in a process of its own, which the kernel starts only where it is told how (binfmt_misc); that
# process's own work is asked for directly.
"$emulate" "$foreign" doctor --config "$home/arm.toml" --runtime > "$home/doctor.txt" || true
grep "^runtime .*ONNX Runtime" "$home/doctor.txt"
"$emulate" "$foreign" doctor --try-kernels "$PWD/.cross/runtime/libonnxruntime.so" | tee "$home/kernels.json"
grep -q '"provider":"cpu","runs":true' "$home/kernels.json"

"$emulate" "$foreign" serve --config "$home/arm.toml" 2> "$home/arm.log" &
running+=($!)
"$native" serve --config "$home/here.toml" 2> "$home/here.log" &
running+=($!)
until_ok $patience "$native" ask --socket "$home/here.sock" --max-tokens 1 hello
until_ok $patience "$native" ask --socket "$home/arm.sock" --max-tokens 1 hello

step "a question over the socket"
devices=$(cat tests/demo/devices.txt)
question=(--max-tokens 80 --system "$devices" --tools tests/demo/tools.json "Turn on the floor lamp")
said=$("$emulate" "$foreign" ask --socket "$home/arm.sock" "${question[@]}")
here=$("$native" ask --socket "$home/here.sock" "${question[@]}")
printf '%s\n' "$said"
[ "$said" = "$here" ] || { printf 'error: here it is\n%s\n' "$here" >&2; exit 1; }

step "a question over MQTT 5"
until_ok $patience "$mosquitto/mosquitto_sub" -p "$port" -t moed/v1/node/arm/available -C 1 -W 1
"$mosquitto/mosquitto_rr" -V 5 -p "$port" -q 1 -W 120 -t moed/v1/node/arm/c/panel/request -e moed/v1/c/panel/r/7 -m "$(request "Turn on the floor lamp" 7)" |
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
