#!/usr/bin/env bash
# The quick proof of corpus and judge: labels, borders, breadth of the wording, scoring. Plain Python 3.10; jinja2 and
# tokenizers are used where they are, and their absence is said.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
"$python" -m corpus.check --samples "${SAMPLES:-400}"
"$python" -m judge.check
