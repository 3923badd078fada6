#!/usr/bin/env bash
# A default model from nothing: tokenizer, a head start for copying, training for $TOKENS tokens, export, proofs, recorded templates.
# It is what training is now, in one run; the shipped model's stretches differ, as its card tells. About 3,000 tokens a second on two idle
# cores. A run that was broken off goes on where it was saved (at most eight minutes are lost); one that has ended is only exported again, and
# RUN names another. default/ and its tokenizer are overwritten.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3} run=${RUN:-made} tokens=${TOKENS:-40e6} name=${NAME:-moed-xs-made}
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184
if [ ! -e ".runs/$run/latest.pt" ]; then
    "$python" -m corpus.tokenizer
    "$python" -m distil.headstart --run "$run"
fi
[ -e ".runs/$run/final.pt" ] || nice -n 19 "$python" -m distil.train --run "$run" --tokens "$tokens"
checkpoint=.runs/$run/final.pt
# the proofs of rows with chunks of different lengths need an input that the shipped graph leaves to the daemon; all else is the same in both
"$python" -m export.folder --checkpoint "$checkpoint" --out ".runs/$run/ragged"
"$python" -m export.check --folder ".runs/$run/ragged" --checkpoint "$checkpoint"
"$python" -m export.folder --even --checkpoint "$checkpoint" --name "$name"
"$python" -m export.templates
echo "default/ holds $name; make judge scores it. Its README.md is still the card of the model before."
