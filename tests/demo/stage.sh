# shellcheck shell=bash
# Sourced, from the repository's root, by scripts that run a daemon beside a broker: a private folder, what runs, and its end.
#   home       the private folder; its *.log are shown where the script fails
#   running    process ids, ended in reverse order
home=$(mktemp -d)
running=()
finish() {
  status=$?
  for ((i = ${#running[@]} - 1; i >= 0; i--)); do
    kill "${running[i]}" 2>/dev/null || true
    wait "${running[i]}" 2>/dev/null || true
  done
  [ $status -eq 0 ] || tail -n 40 "$home"/*.log >&2 || true
  rm -rf "$home"
  exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# until_ok SECONDS COMMAND...: waits for a command to succeed.
until_ok() {
  local end=$((SECONDS + $1))
  shift
  while [ $SECONDS -lt $end ]; do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done
  echo "error: gave up waiting for: $*" >&2
  return 1
}

# start_broker FOLDER: Mosquitto out of a folder, on a free loopback port, whose number is in `port` then.
start_broker() {
  local broker
  for _ in 1 2 3; do
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    printf 'listener %s 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\npersistence false\n' "$port" > "$home/mosquitto.conf"
    [ "$(id -u)" != 0 ] || echo 'user root' >> "$home/mosquitto.conf"
    "$1/mosquitto" -c "$home/mosquitto.conf" > "$home/mosquitto.log" 2>&1 &
    broker=$!
    # Somebody else may have taken the port meanwhile: then it ends at once.
    sleep 0.3
    if kill -0 $broker 2>/dev/null; then running+=("$broker"); return 0; fi
  done
  echo "error: Mosquitto does not start" >&2
  return 1
}

# request QUESTION ID: what a device publishes to ask, with the demo's devices and tools.
request() {
  python3 - "$1" "$2" tests/demo/devices.txt tests/demo/tools.json <<'PYTHON'
import json, sys
question, number, devices, tools = sys.argv[1:]
messages = [{"role": "system", "content": open(devices).read().strip()}, {"role": "user", "content": question}]
print(json.dumps({"v": 1, "id": number, "messages": messages, "tools": json.load(open(tools)), "params": {"max_tokens": 80}}))
PYTHON
}
