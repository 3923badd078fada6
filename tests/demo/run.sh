#!/usr/bin/env bash
# Questions to the default model: over the socket, over MQTT 5, over MQTT 3.1.1. Stops what it starts.
#   MOED=path/to/moed MODEL=path/to/model tests/demo/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
moed=$(readlink -f "${MOED:-target/release/moed}")
model=$(readlink -f "${MODEL:-models/default}")
tools=$PWD/.tools/mosquitto/bin
# shellcheck source=tests/demo/stage.sh
. tests/demo/stage.sh

say() { printf '\n\033[1m%s\033[0m\n' "$1"; }
show() { printf '$ %s\n' "$1"; }
start_broker "$tools"

cat > "$home/moed.toml" <<CONFIG
[node]
name = "demo"
[socket]
path = "$home/moed.sock"
[mqtt]
url = "mqtt://127.0.0.1:$port"
[model]
dir = "$model"
[journal]
dir = "$home/journal"
[runtime]
onnxruntime = "$PWD/.runtime/libonnxruntime.so"
CONFIG
"$moed" serve --config "$home/moed.toml" 2> "$home/moed.log" &
running+=($!)
until_ok 60 "$moed" ask --socket "$home/moed.sock" --max-tokens 1 "hello"
until_ok 60 "$tools/mosquitto_sub" -p "$port" -t moed/v1/node/demo/available -C 1 -W 1

devices=$(cat tests/demo/devices.txt)
say "1. a streamed answer over the socket"
show 'moed ask --stream --system "$devices" "Is the west blind open?"'
"$moed" ask --socket "$home/moed.sock" --stream --max-tokens 60 --system "$devices" "Is the west blind open?"

say "2. a tool call for a device of the list, over the socket"
show 'moed ask --system "$devices" --tools tools.json "Turn on the floor lamp"'
"$moed" ask --socket "$home/moed.sock" --max-tokens 80 --system "$devices" --tools tests/demo/tools.json "Turn on the floor lamp"

say "3. the same over MQTT 5, with a response topic"
show 'mosquitto_rr -V 5 -t moed/v1/node/demo/c/panel/request -e moed/v1/c/panel/r/7 -m "$request"'
"$tools/mosquitto_rr" -V 5 -p "$port" -q 1 -W 60 -t moed/v1/node/demo/c/panel/request -e moed/v1/c/panel/r/7 \
  -m "$(request 'Turn on the floor lamp' 7)"

say "4. the same over MQTT 3.1.1, from a device that is away while the answer is made"
show 'mosquitto_sub -V mqttv311 -i panel -c -q 1 -E -t moed/v1/c/panel/r/8      # subscribes and leaves'
"$tools/mosquitto_sub" -V mqttv311 -p "$port" -i panel -c -q 1 -E -t moed/v1/c/panel/r/8
show 'mosquitto_pub -V mqttv311 -q 1 -t moed/v1/node/demo/c/panel/request -m "$request"'
"$tools/mosquitto_pub" -V mqttv311 -p "$port" -q 1 -t moed/v1/node/demo/c/panel/request \
  -m "$(request 'Turn on the floor lamp' 8)"
show 'mosquitto_sub -V mqttv311 -i panel -c -q 1 -C 1 -t moed/v1/c/panel/r/8    # comes back'
"$tools/mosquitto_sub" -V mqttv311 -p "$port" -i panel -c -q 1 -C 1 -W 60 -t moed/v1/c/panel/r/8

say "5. one command that tries a broker"
show 'moed ask --mqtt mqtt://127.0.0.1 --tools tools.json "Turn off the ceiling lamp"'
"$moed" ask --mqtt "mqtt://127.0.0.1:$port" --max-tokens 80 --system "$devices" --tools tests/demo/tools.json "Turn off the ceiling lamp"
