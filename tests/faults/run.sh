#!/usr/bin/env bash
# The fault suite whole, or the soak (`run.sh soak`, MINUTES=60), and what it counted into tests/reports/.
set -euo pipefail
cd "$(dirname "$0")/../.."
what=${1:-faults}
log=target/$what.log
mkdir -p target
if [ "$what" = soak ]; then
  export MINUTES=${MINUTES:-60}
  cargo test --locked --test faults soak -- --nocapture --test-threads=1 2>&1 | tee "$log"
else
  MOED_FAULTS=whole cargo test --locked --test faults -- --nocapture --test-threads=1 2>&1 | tee "$log"
fi
tests/faults/report.sh "$what" "$log" > "tests/reports/$what.md"
