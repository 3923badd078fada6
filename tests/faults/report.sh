#!/usr/bin/env bash
# report.sh faults|soak LOG: what a run counted, as a page.
set -euo pipefail
cd "$(dirname "$0")/../.."
what=$1 log=$2
cpu=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -1)
# The first thing that a test prints stands behind its name.
said() { sed -E 's/^test .* \.\.\. ([a-z])/\1/' "$log"; }
if [ "$what" = soak ]; then echo "# The soak"; else echo "# The fault suite"; fi
echo
echo "\`make $what\`${MINUTES:+ with \`MINUTES=$MINUTES\`} at \`$(git describe --always --dirty)\`, $(date -u +%F), debug build, $(nproc) cores of ${cpu:-an unnamed CPU}, $(.tools/mosquitto/bin/mosquitto -h | sed -n 's/.*\(mosquitto version [0-9.]*\).*/\1/p')."
if [ "$what" = soak ]; then
  echo
  echo '```'
  said | grep '^soak: [^M]'
  echo '```'
  exit
fi
cat <<'END'

Sent: different requests.
Computed: answers that the nodes made; more than sent where an attempt died or two members of a pool took one.
Repeated: copies that came beside the first answer; every scenario with one node asks for all answers again at its end.

| scenario | sent | computed | answered | repeated | asked again | refused | lost | differing |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
END
n='([0-9]+)'
said | sed -n -E "s/^([a-z][a-z -]*): sent $n computed $n answered $n repeated $n asked-again $n refused $n lost $n differing $n\$/| \1 | \2 | \3 | \4 | \5 | \6 | \7 | \8 | \9 |/p"
