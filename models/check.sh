#!/usr/bin/env bash
# The quick proof of the corpus: labels, borders, breadth of the wording. Plain Python 3.11; jinja2 and tokenizers are used where they are.
set -euo pipefail
cd "$(dirname "$0")"
exec "${PYTHON:-python3}" -m corpus.check --samples "${SAMPLES:-400}"
