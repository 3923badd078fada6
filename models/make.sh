#!/usr/bin/env bash
# The default model from nothing: tokenizer, a head start for copying, training for $TOKENS tokens, export, proofs, recorded templates.
# What the four stretches of the shipped model did one after another, in one run: the recipe, not the same weights. Every token costs
# about 0.7 ms of two cores; a run that was broken off goes on where it was saved (at most eight minutes are lost).
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3} run=${RUN:-made} tokens=${TOKENS:-40e6}
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184
if [ ! -e ".runs/$run/latest.pt" ]; then
    "$python" -m corpus.tokenizer
    "$python" -m distil.headstart --run "$run"
fi
[ -e ".runs/$run/final.pt" ] || nice -n 19 "$python" -m distil.train --run "$run" --tokens "$tokens"
checkpoint=.runs/$run/final.pt
"$python" -m export.folder --checkpoint "$checkpoint" --out ".runs/$run/ragged"
"$python" -m export.check --folder ".runs/$run/ragged" --checkpoint "$checkpoint"
"$python" -m export.folder --even --checkpoint "$checkpoint"
"$python" -m export.templates
echo "default/ holds the new model; make judge scores it"
