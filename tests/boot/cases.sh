#!/bin/bash
# The cases, run by the booted systemd: each is a function that fails by `expect`. One line a case in $OUT/results.
set -u
exec 9>>"$OUT/results"
SOCKET=/run/moed.sock

# --- how a case speaks

fail() { why="$*"; return 1; }
# expect WHAT COMMAND...: the command must succeed.
expect() { local what=$1; shift; "$@" || { why="$what"; return 1; }; }
# within SECONDS WHAT COMMAND...: the command must succeed before the time is up.
within() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { why="$what: not in time"; return 1; }
    sleep 0.05
  done
}
prop() { systemctl show -p "$1" --value "${2:-moed.service}"; }
is() { [ "$(prop "$1" "${3:-moed.service}")" = "$2" ]; }
# as USER COMMAND...: with the user's own groups.
as() { local user=$1; shift; setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups "$@"; }
ask() { moed ask --socket "${2:-$SOCKET}" "$1"; }
says() { journalctl --no-pager -q -o cat "$@" | grep -q .; }
configure() { cat >/etc/moed/moed.toml; chmod 0644 /etc/moed/moed.toml; }
plain() {
  configure <<END
[node]
name = "boot"
[model]
dir = "/usr/share/moed/models/default"
[engine]
threads = 1
prepare = "never"
${1:-}
END
}
dropin() { mkdir -p "/run/systemd/system/$1.d"; cat >"/run/systemd/system/$1.d/case.conf"; systemctl daemon-reload; }
no_dropin() { rm -rf "/run/systemd/system/$1.d"; systemctl daemon-reload; }
# A clean slate: units down, no memory of failures, the plain config.
afresh() {
  systemctl stop moed.socket moed.service 2>/dev/null
  rm -rf /run/systemd/system/moed.service.d /run/moed-hang
  systemctl daemon-reload
  systemctl reset-failed moed.service moed.socket 2>/dev/null
  plain
}

# --- installation

install_from_tree() {
  local library; library=$(readlink -f /mnt/runtime/libonnxruntime.so)
  install -D -t /usr/lib/moed "$library"
  ln -sf "$(basename "$library")" /usr/lib/moed/libonnxruntime.so
  mkdir -p /usr/share/moed/models /etc/moed
  cp -r "$TREE/models/tiny" /usr/share/moed/models/default
  install -D -m 0644 "$TREE/systemd/moed.sysusers" /usr/lib/sysusers.d/moed.conf
  install -m 0644 -t /etc/systemd/system "$TREE"/systemd/*.service "$TREE"/systemd/*.socket
  install -D -m 0644 -t /usr/share/moed/drop-ins "$TREE"/systemd/drop-ins/*.conf
  install -D -t /usr/share/moed/drop-ins "$TREE/systemd/drop-ins/select.sh"
  /usr/share/moed/drop-ins/select.sh /etc/systemd/system/moed.service.d
  systemd-sysusers /usr/lib/sysusers.d/moed.conf
  plain
  systemctl daemon-reload
}

people() {
  printf 'u ann - -\nm ann moed-clients\nu eve - -\n' >/run/people.conf
  systemd-sysusers /run/people.conf
}

# --- cases

enable_and_start() {
  expect "enable" systemctl -q enable moed.service || return
  expect "the socket is enabled with it" systemctl -q is-enabled moed.socket || return
  expect "start" systemctl start moed.service || return
  expect "active" is ActiveState active || return
  prop StatusText | grep -q ' on cpu' || fail "status text: $(prop StatusText)"
}

members_ask_and_strangers_are_refused() {
  expect "a member is answered" as ann moed ask --socket $SOCKET hi || return
  if as eve moed ask --socket $SOCKET hi 2>/run/said; then fail "a stranger was answered"; return; fi
  grep -q "Permission denied" /run/said || { fail "$(cat /run/said)"; return; }
  if as ann ls /var/lib/moed 2>/dev/null; then fail "a member reads the state directory"; return; fi
  if as ann moed reload --wait --socket $SOCKET 2>/run/said; then fail "a member may reload"; return; fi
  grep -q "may not reload" /run/said || fail "$(cat /run/said)"
}

the_first_connection_starts_the_daemon() {
  afresh
  expect "the socket" systemctl start moed.socket || return
  expect "not yet" is ActiveState inactive || return
  within 30 "an answer from cold" ask hi || return
  expect "active" is ActiveState active
}

journal_fields_find_a_job() {
  expect "an answer" as ann moed ask --socket $SOCKET "a question that nobody logs" || return
  local client="uid:$(id -u ann)" job
  within 10 "a line with MOED_CLIENT" says MOED_CLIENT="$client" MOED_OUTCOME=stop || return
  job=$(journalctl --no-pager -q -o verbose MOED_CLIENT="$client" | sed -n 's/^ *MOED_JOB=//p' | tail -1)
  [ -n "$job" ] || { fail "no MOED_JOB"; return; }
  within 5 "its line by MOED_JOB" says MOED_JOB="$job" || return
  [ "$(journalctl --no-pager -q -o cat MOED_JOB="$job" _PID="$(prop MainPID)" PRIORITY=6 | wc -l)" = 1 ] || { fail "more than one line a job"; return; }
  if journalctl --no-pager -q -o export | grep -qa "nobody logs"; then fail "a prompt is in the journal"; fi
}

sensors_are_readable_inside_the_unit() {
  local pid; pid=$(prop MainPID)
  for file in /proc/meminfo /proc/pressure/memory; do
    [ -e "$file" ] || continue
    nsenter -t "$pid" -m setpriv --reuid=moed --regid=moed --clear-groups cat "$file" >/dev/null || { fail "$file"; return; }
  done
  journalctl --no-pager -q -o verbose _PID="$pid" | grep -q 'MOED_MEMORY_MAX=[1-9]' || { fail "no memory budget was found"; return; }
  if nsenter -t "$pid" -m setpriv --reuid=moed --regid=moed --clear-groups touch /usr/x 2>/dev/null; then fail "/usr is writable"; fi
}

# With this systemd's own eyes, on the CPU and with a GPU.
units_are_clean_and_exposed_no_more_than_promised() {
  local board most
  for board in "" gpu; do
    most=12
    [ -z "$board" ] || most=16
    # shellcheck disable=SC2086
    /usr/share/moed/drop-ins/select.sh /run/systemd/system/moed.service.d $board
    systemctl daemon-reload
    systemd-analyze verify --man=no moed.service moed.socket >/run/said 2>&1 || { fail "verify $board: $(cat /run/said)"; return; }
    if grep moed /run/said; then fail "verify $board: $(grep moed /run/said)"; return; fi
    systemd-analyze security --no-pager --threshold=$most moed.service >/run/said || { fail "$board $(tail -1 /run/said)"; return; }
    tail -1 /run/said
  done
  no_dropin moed.service
}

# From 254 on: the kernel's file is open, and nothing was refused.
memory_pressure_is_watched_where_systemd_offers_it() {
  local pid version; pid=$(prop MainPID) version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
  if [ "$version" -lt 254 ]; then
    if tr '\0' '\n' <"/proc/$pid/environ" | grep MEMORY_PRESSURE; then fail "systemd $version offers it"; fi
    return
  fi
  tr '\0' '\n' <"/proc/$pid/environ" | grep '^MEMORY_PRESSURE_WATCH=/sys/fs/cgroup' || { fail "no watch in the environment"; return; }
  find "/proc/$pid/fd" -lname '*/memory.pressure' | grep -q . || { fail "$(journalctl --no-pager -q -o cat _PID="$pid" | grep pressure)"; return; }
  if says _PID="$pid" PRIORITY=4 --grep "memory pressure"; then fail "it was refused"; fi
}

reload_is_waited_for_and_a_broken_config_fails_it() {
  plain '[log]
level = "debug"'
  expect "reload" systemctl reload moed.service || return
  within 5 "its line" says MOED_ORDER=reload MOED_CHANGED=log.level || return
  local pid; pid=$(prop MainPID)
  plain '[log]
level = "loud"'
  if systemctl reload moed.service 2>/dev/null; then fail "a reload of a broken config succeeded"; return; fi
  within 5 "the reason" sh -c 'journalctl --no-pager -q -o cat -u moed.service | grep -q "log.level. is .loud"' || return
  within 5 "still active" is ActiveState active || return
  [ "$(prop MainPID)" = "$pid" ] || { fail "it was restarted"; return; }
  plain
  expect "an answer" ask hi
}

a_broken_config_is_not_started_again_and_again() {
  afresh
  plain '[queue]
waiting_maks = 3'
  if systemctl start moed.service 2>/dev/null; then fail "it started"; return; fi
  # Longer than RestartSec: what would be started again has been by now.
  sleep 3
  is ActiveState failed || { fail "state $(prop ActiveState)"; return; }
  is ExecMainStatus 78 || { fail "exit code $(prop ExecMainStatus)"; return; }
  is NRestarts 0 || { fail "restarted $(prop NRestarts) times"; return; }
  within 5 "the reason in the journal" sh -c "journalctl --no-pager -q -o cat -u moed.service | grep -q 'did you mean .queue.waiting_max'"
}

crash_restart_refuses_no_connection() {
  afresh
  expect "start" systemctl start moed.service || return
  local pid
  rm -f /run/refused
  touch /run/asking
  # What was being served dies with its process (52, 56); what is made must never be refused (7).
  while [ -e /run/asking ]; do
    curl -s -o /dev/null --max-time 20 --unix-socket $SOCKET http://x/health
    [ $? != 7 ] || touch /run/refused
  done &
  for _ in 1 2; do
    within 20 "running" is SubState running || break
    pid=$(prop MainPID)
    kill -KILL "$pid"
    # While nobody is there: each is taken by systemd and waits for the next daemon.
    python3 -c '
import socket
for _ in range(200):
    s = socket.socket(socket.AF_UNIX)
    s.connect("/run/moed.sock")
    s.close()
' || { why="a connection was refused"; break; }
    within 20 "a new process" sh -c "p=\$(systemctl show -p MainPID --value moed.service); [ \$p != 0 ] && [ \$p != $pid ]" || break
    within 20 "an answer" ask hi || break
  done
  rm -f /run/asking
  wait
  [ -z "$why" ] || return
  is NRestarts 2 || { fail "NRestarts $(prop NRestarts)"; return; }
  [ ! -e /run/refused ] || fail "a question was refused"
}

drain_over_the_socket_ends_it_and_a_question_starts_it() {
  afresh
  expect "start" systemctl start moed.service || return
  expect "drain" moed drain --wait --socket $SOCKET || return
  within 10 "inactive" is ActiveState inactive || return
  is Result success || { fail "result $(prop Result)"; return; }
  within 30 "an answer" ask hi
}

instances_stand_beside_each_other() {
  afresh
  cp /etc/moed/moed.toml /etc/moed/kitchen.toml
  expect "start" systemctl start moed@kitchen.service || return
  expect "an answer" ask hi /run/moed-kitchen.sock || return
  expect "its own state" test -d /var/lib/moed-kitchen || return
  systemctl stop moed@kitchen.service moed@kitchen.socket
}

a_journald_that_is_gone_costs_lines_and_nothing_else() {
  afresh
  expect "start" systemctl start moed.service || return
  local pid; pid=$(prop MainPID)
  local sockets="systemd-journald.socket systemd-journald-dev-log.socket"
  # shellcheck disable=SC2086
  systemctl stop $sockets systemd-journald.service 2>/dev/null
  if systemctl -q is-active systemd-journald.service; then why="journald still runs"; fi
  [ -n "$why" ] || expect "an answer" ask hi
  [ -n "$why" ] || expect "another" ask hi
  [ -n "$why" ] || systemctl restart moed.service || why="a restart failed"
  [ -n "$why" ] || expect "an answer after it" ask hi
  local after; after=$(prop NRestarts)
  # shellcheck disable=SC2086
  systemctl start $sockets systemd-journald.service
  [ -z "$why" ] || return
  [ "$after" = 0 ] || fail "it fell over $after times"
}

credentials_reach_the_daemon_and_nobody_else() {
  afresh
  printf 'tr0ub4dor' >/etc/moed/mqtt-password
  chmod 0600 /etc/moed/mqtt-password
  plain '[mqtt]
url = "mqtt://127.0.0.1:1"
user = "boot"
password_file = "mqtt-password"'
  printf '[Service]\nLoadCredential=mqtt-password:/etc/moed/mqtt-password\n' | dropin moed.service
  expect "start" systemctl start moed.service || { journalctl -u moed.service -o cat -n 20 --no-pager; return 1; }
  local pid; pid=$(prop MainPID)
  if as ann cat /run/credentials/moed.service/mqtt-password 2>/dev/null; then fail "a member reads the credential"; return; fi
  if journalctl --no-pager -q -o export | grep -qa tr0ub4dor; then fail "the secret is in the journal"; return; fi
  if curl -s --unix-socket $SOCKET http://x/status | grep -q tr0ub4dor; then fail "the secret is in /status"; return; fi
  if tr '\0' '\n' <"/proc/$pid/environ" | grep -q tr0ub4dor; then fail "the secret is in the environment"; return; fi
  [ "$(awk '/Max core file size/ {print $5}' "/proc/$pid/limits")" = 0 ] || fail "core dumps are on"
}

# --- slow cases

hang() { # PART
  afresh
  plain '[mqtt]
url = "mqtt://127.0.0.1:1"'
  printf '[Service]\nWatchdogSec=4\nTimeoutAbortSec=3\nEnvironment=MOED_HANG=%s:/run/moed-hang\n' "$1" | dropin moed.service
  expect "start" systemctl start moed.service || return
  local pid; pid=$(prop MainPID)
  # Alive: it outlives two intervals.
  sleep 9
  [ "$(prop MainPID)" = "$pid" ] || { fail "restarted without a hang"; return; }
  touch /run/moed-hang
  within 30 "the watchdog" sh -c 'journalctl --no-pager -q -o cat -u moed.service | grep -q "Watchdog timeout"' || return
  rm -f /run/moed-hang
  within 20 "a restart" sh -c "[ \$(systemctl show -p MainPID --value moed.service) != $pid ]" || return
  within 20 "an answer" ask hi || return
  journalctl --no-pager -q -o cat -u moed.service | grep -q "no sign of life.*parts=.*$1" || { fail "the log does not name $1"; return; }
  journalctl --rotate -q; journalctl --vacuum-time=1s -q
}
a_hung_engine_is_restarted() { hang engine; }
a_hung_mqtt_desk_is_restarted() { hang mqtt; }
a_hung_journal_is_restarted() { hang journal; }

a_crash_loop_stops_at_the_limit() {
  afresh
  printf '[Service]\nRestartSec=0\n' | dropin moed.service
  expect "start" systemctl start moed.service || return
  for _ in $(seq 10); do
    within 20 "running or failed" sh -c '[ "$(systemctl show -p SubState --value moed.service)" = running ] || systemctl -q is-failed moed.service' || return
    systemctl -q is-failed moed.service && break
    kill -KILL "$(prop MainPID)" 2>/dev/null
    sleep 0.3
  done
  within 20 "failed" systemctl -q is-failed moed.service || return
  [ "$(prop NRestarts)" -le 5 ] || { fail "restarted $(prop NRestarts) times"; return; }
  # The socket must not hang whoever asks.
  timeout 10 moed ask --socket $SOCKET hi 2>/dev/null
  local code=$?
  [ $code != 0 ] && [ $code != 124 ] || fail "asking a daemon that is down for good ended with $code"
}

reload_under_load_drops_nothing() {
  afresh
  expect "start" systemctl start moed.service || return
  local body='{"messages":[{"role":"user","content":"hi"}],"ignore_eos":true,"max_tokens":400}'
  rm -f /run/codes
  for worker in 1 2 3 4; do
    (for _ in $(seq 15); do
      curl -s -o /dev/null -w '%{http_code}\n' --unix-socket $SOCKET -H 'content-type: application/json' -d "$body" http://x/v1/chat/completions
    done >>/run/codes.$worker) &
  done
  for n in 1 2 3 4 5; do
    plain "[queue]
waiting_max = $((50 + n))"
    expect "reload $n" systemctl reload moed.service || { wait; return 1; }
  done
  wait
  [ "$(cat /run/codes.* | sort | uniq -c | awk '{print $1" "$2}')" = "60 200" ] || fail "$(cat /run/codes.* | sort | uniq -c | tr '\n' ' ')"
}

a_stop_under_load_finishes_what_runs() {
  afresh
  expect "start" systemctl start moed.service || return
  local body='{"messages":[{"role":"user","content":"hi"}],"ignore_eos":true,"max_tokens":8000}' worker
  rm -f /run/codes.*
  for worker in 1 2 3 4 5 6 7 8; do
    curl -s -o /dev/null -w '%{http_code}\n' --unix-socket $SOCKET -H 'content-type: application/json' -d "$body" http://x/v1/chat/completions >/run/codes.$worker &
  done
  within 10 "taken on" sh -c "curl -s --unix-socket $SOCKET http://x/metrics | grep -q '^moed_client_requests_total.* 8$'" || return
  expect "stop" systemctl stop moed.service || return
  wait
  [ "$(cat /run/codes.* | sort | uniq -c | awk '{print $1" "$2}')" = "8 200" ] || { fail "$(cat /run/codes.* | sort | uniq -c | tr '\n' ' ')"; return; }
  is Result success || fail "result $(prop Result)"
}

# --- the run

# shellcheck source=tests/boot/packages.sh
. "$TREE/tests/boot/packages.sh"
if [ -d /mnt/debs ]; then
  dpkg -i /mnt/debs/*.deb || echo "not ok install: dpkg says $?" >&9
else
  install_from_tree
fi
people
quick="enable_and_start members_ask_and_strangers_are_refused journal_fields_find_a_job sensors_are_readable_inside_the_unit
 memory_pressure_is_watched_where_systemd_offers_it units_are_clean_and_exposed_no_more_than_promised
 reload_is_waited_for_and_a_broken_config_fails_it the_first_connection_starts_the_daemon
 a_broken_config_is_not_started_again_and_again crash_restart_refuses_no_connection
 drain_over_the_socket_ends_it_and_a_question_starts_it instances_stand_beside_each_other
 credentials_reach_the_daemon_and_nobody_else a_journald_that_is_gone_costs_lines_and_nothing_else"
slow="a_hung_engine_is_restarted a_hung_mqtt_desk_is_restarted a_hung_journal_is_restarted a_crash_loop_stops_at_the_limit
 reload_under_load_drops_nothing a_stop_under_load_finishes_what_runs"
packages="the_packages_start_what_they_install enable_and_start members_ask_and_strangers_are_refused journal_fields_find_a_job
 sensors_are_readable_inside_the_unit memory_pressure_is_watched_where_systemd_offers_it
 an_upgrade_under_load_loses_no_accepted_job
 a_broken_config_is_named_and_stops_nothing_that_runs a_removal_keeps_config_and_state_and_a_purge_does_not"
case "$CASES" in
  quick) list=$quick ;;
  slow) list=$slow ;;
  all) list="$quick $slow" ;;
  packages) list=$packages ;;
  *) list=$CASES ;;
esac
for name in $list; do
  why=""
  echo "== $name"
  if "$name"; then echo "ok $name" >&9; else echo "not ok $name: ${why:-failed}" >&9; fi
done
echo "systemd $(systemctl --version | sed -n 1p)" >&9
echo "done" >&9
