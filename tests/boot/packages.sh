# Cases of the built packages, read by cases.sh: /mnt/debs holds what was installed, /mnt/newer a later version of `moed`.

version_of() { dpkg-query -W -f '${Version}' "$1"; }

the_packages_start_what_they_install() {
  [ "$(dpkg-query -W -f '${Status}' moed)" = "install ok installed" ] || { fail "moed: $(dpkg-query -W -f '${Status}' moed)"; return; }
  expect "enabled" systemctl -q is-enabled moed.service moed.socket || return
  within 60 "active after the installation" is ActiveState active || return
  within 60 "an answer with the config as shipped" ask hi || return
  expect "the socket is the group's" test "$(stat -c '%U:%G %a' $SOCKET)" = "moed:moed-clients 660" || return
  expect "the state is the service's alone" test "$(stat -c '%U:%G %a' /var/lib/moed)" = "moed:moed 700" || return
  test -L /usr/lib/systemd/system/moed.service.d/249.conf || fail "the drop-ins for this systemd were not chosen"
}

# --- the load: questions over both ways in

URL=mqtt://127.0.0.1:18830
broker_tool() { command -v "$1" || echo "/mnt/mosquitto/bin/$1"; }

start_broker() {
  printf 'listener 18830 127.0.0.1\nallow_anonymous true\nuser root\nmax_queued_messages 0\n' >/run/mosquitto.conf
  systemd-run -q --unit=broker "$(broker_tool mosquitto)" -c /run/mosquitto.conf
  within 20 "the broker" bash -c 'exec 3<>/dev/tcp/127.0.0.1/18830'
}

# Until /run/asking goes: over HTTP three questions at a time, their ends in /run/codes.N; over MQTT twenty a second, what was
# asked in /run/asked, what came in /run/heard.
load() {
  local body='{"messages":[{"role":"user","content":"Tell me about the sea."}],"ignore_eos":true,"max_tokens":60}' worker
  rm -f /run/codes.* /run/asked /run/heard
  touch /run/asking /run/heard /run/asked
  "$(broker_tool mosquitto_sub)" -h 127.0.0.1 -p 18830 -i hearer -q 1 -v -t 'moed/v1/c/load/r/#' >/run/heard &
  hearer=$!
  for worker in 1 2 3; do
    while [ -e /run/asking ]; do
      curl -s -o /dev/null -w '%{http_code} %{exitcode} %{errormsg}\n' --unix-socket $SOCKET -H 'content-type: application/json' -d "$body" \
        http://x/v1/chat/completions >>/run/codes.$worker
    done &
  done
  local number=0
  while [ -e /run/asking ]; do
    number=$((number + 1))
    echo "q$number" >>/run/asked
    echo '{"v":1,"id":"q'$number'","ack":true,"prompt":"What is '$number'?","params":{"max_tokens":12,"ignore_eos":true}}'
    sleep 0.05
  done | "$(broker_tool mosquitto_pub)" -h 127.0.0.1 -p 18830 -i asker -q 1 -l -t moed/v1/node/boot/c/load/request &
}
# The ids for which a reply of this type came.
heard() { sed -n "s#^moed/v1/c/load/r/\([^ ]*\) .*\"type\":\"$1\".*#\1#p" /run/heard | sort -u; }
ended() { { heard result; heard error; } | sort -u; }
all_ended() { [ "$(sort -u /run/asked | comm -23 - <(ended) | wc -l)" = 0 ]; }
answered() { [ "$(heard result | wc -l)" -ge "$1" ] && [ "$(cat /run/codes.* 2>/dev/null | grep -c '^200 ')" -ge "$2" ]; }

an_upgrade_under_load_loses_no_accepted_job() {
  plain "[mqtt]
url = \"$URL\""
  start_broker || return
  expect "start" systemctl restart moed.service || return
  within 30 "connected" sh -c "curl -s --unix-socket $SOCKET http://x/metrics | grep -q '^moed_mqtt_connected 1'" || return
  local before pid; before=$(version_of moed) pid=$(prop MainPID)
  load
  within 60 "answers before the upgrade" answered 20 6
  # One that is certainly at work when the daemon is told to go.
  echo long >>/run/asked
  "$(broker_tool mosquitto_pub)" -h 127.0.0.1 -p 18830 -q 1 -t moed/v1/node/boot/c/load/request \
    -m '{"v":1,"id":"long","ack":true,"prompt":"Count.","params":{"max_tokens":1500,"ignore_eos":true}}'
  [ -n "$why" ] || within 20 "the long one accepted" sh -c "grep -q 'r/long .*accepted' /run/heard"
  [ -n "$why" ] || dpkg -i /mnt/newer/*.deb || why="the upgrade failed"
  [ -n "$why" ] || within 60 "active again" is ActiveState active
  local results codes
  results=$(heard result | wc -l) codes=$(cat /run/codes.* | grep -c '^200 ')
  [ -n "$why" ] || within 60 "answers after the upgrade" answered $((results + 20)) $((codes + 6))
  rm -f /run/asking
  wait $(jobs -p | grep -vx $hearer)
  [ -n "$why" ] || within 120 "an end for everything that was asked" all_ended
  sleep 1
  kill $hearer
  systemctl stop broker.service
  echo "HTTP: $(cat /run/codes.* | sort | uniq -c | tr '\n' ';') MQTT: $(wc -l </run/asked) asked, $(heard accepted | wc -l) accepted, $(heard result | wc -l) answered, $(heard error | wc -l) refused"
  [ -z "$why" ] || { comm -23 <(sort -u /run/asked) <(ended) | head; return 1; }
  [ "$(version_of moed)" != "$before" ] || { fail "still version $before"; return; }
  [ "$(prop MainPID)" != "$pid" ] || { fail "the old process still runs"; return; }
  is NRestarts 0 || { fail "it fell over $(prop NRestarts) times"; return; }
  # A connection that the old process takes up in its very last moment is closed before its question is read: one at most.
  local other; other=$(cat /run/codes.* | grep -v -e '^200 0 ' -e '^503 0 ')
  [ "$(echo "$other" | grep -c .)" -le 1 ] || { fail "HTTP: $(cat /run/codes.* | sort | uniq -c | tr '\n' ';')"; return; }
  local lost; lost=$(comm -23 <(heard accepted) <(heard result) | tr '\n' ' ')
  [ -z "$lost" ] || { fail "accepted and not answered: $lost"; return; }
  # Copies of an answer have one text.
  local differing; differing=$(sed -n 's#^moed/v1/c/load/r/\([^ ]*\) .*"type":"result".*"text":\("\([^"\\]\|\\.\)*"\).*#\1 \2#p' /run/heard | sort -u | cut -d' ' -f1 | uniq -d)
  [ -z "$differing" ] || { fail "answered in two ways: $differing"; return; }
  moed journal list --socket $SOCKET 2>&1 | grep -q ' 0 pending' || fail "the journal: $(moed journal list --socket $SOCKET 2>&1 | tail -1)"
}

a_broken_config_is_named_and_stops_nothing_that_runs() {
  plain
  expect "start" systemctl restart moed.service || return
  local pid; pid=$(prop MainPID)
  plain '[queue]
waiting_maks = 3'
  dpkg -i /mnt/newer/*.deb >/run/said 2>&1 || { fail "the upgrade failed: $(cat /run/said)"; return; }
  grep -q "did you mean .queue.waiting_max" /run/said || { fail "the reason is not said: $(cat /run/said)"; return; }
  [ "$(prop MainPID)" = "$pid" ] || { fail "it was restarted with a config that it refuses"; return; }
  expect "an answer" ask hi || return
  grep -q waiting_maks /etc/moed/moed.toml || { fail "the operator's config is gone"; return; }
  systemctl stop moed.socket moed.service
  dpkg -i /mnt/newer/*.deb >/run/said 2>&1 || { fail "the upgrade failed: $(cat /run/said)"; return; }
  is ActiveState inactive || { fail "it was started: $(prop ActiveState)"; return; }
  plain
  dpkg -i /mnt/newer/*.deb >/run/said 2>&1 || { fail "the upgrade failed: $(cat /run/said)"; return; }
  within 60 "active again" is ActiveState active
}

a_removal_keeps_config_and_state_and_a_purge_does_not() {
  expect "start" systemctl start moed.service || return
  dpkg -r moed || { fail "the removal failed"; return; }
  if systemctl -q is-active moed.service || systemctl -q is-active moed.socket; then fail "it still runs"; return; fi
  [ ! -e $SOCKET ] || { fail "the socket is still there"; return; }
  [ -e /etc/moed/moed.toml ] && [ -e /var/lib/moed/journal.redb ] || { fail "config or journal is gone after a removal"; return; }
  [ ! -e /usr/lib/systemd/system/moed.service.d ] || { fail "the chosen drop-ins are still there"; return; }
  dpkg -P moed || { fail "the purge failed"; return; }
  dpkg -P moed-runtime-cpu moed-model-default || { fail "the purge failed"; return; }
  rm -f /etc/moed/kitchen.toml /etc/moed/mqtt-password
  local left; left=$(find /etc /var/lib /var/cache /usr/lib /usr/share /usr/bin -path /var/lib/dpkg -prune -o -name 'moed*' -print)
  [ -z "$left" ] || { fail "left: $left"; return; }
  if systemctl cat moed.service >/dev/null 2>&1; then fail "systemd still knows the unit"; fi
}
