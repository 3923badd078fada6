#!/usr/bin/env bash
# Everything that `make bench` compares with, into .bench/: a venv, llama.cpp, the models. Each step is skipped when it is done.
#   tests/bench/setup.sh [venv|llama|models ...]      all three without a name
# 12 GB of disk, most of it torch's wheel; the first time takes a quarter of an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p .bench
python=.bench/venv/bin/python

# llama.cpp as the Python binding's source distribution carries it.
binding=llama-cpp-python==0.3.36
# No AMX: with GGML_NATIVE its kernels crash on some virtual machines. What the CPU lacks is left out.
flag() { grep -qw "$1" /proc/cpuinfo && echo ON || echo OFF; }

venv() {
  local want
  want=$(sha256sum tests/bench/requirements.txt | cut -d' ' -f1)
  [ "$(cat .bench/venv/stamp 2>/dev/null)" = "$want" ] && return
  echo "bench: installing the peers' Python packages" >&2
  python3 -m venv .bench/venv
  $python -m pip install --quiet --disable-pip-version-check --requirement tests/bench/requirements.txt
  echo "$want" > .bench/venv/stamp
}

llama() {
  [ -x .bench/llama/bin/llama-server ] && [ "$(cat .bench/llama/stamp 2>/dev/null)" = "$binding" ] && return
  echo "bench: building llama.cpp out of $binding" >&2
  mkdir -p .bench/source
  [ -d .bench/source/llama.cpp ] || {
    $python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python --dest .bench/source "$binding"
    tar -xzf .bench/source/llama_cpp_python-*.tar.gz -C .bench/source --strip-components=2 --wildcards '*/vendor/llama.cpp'
  }
  local cmake=.bench/venv/bin/cmake
  $cmake -S .bench/source/llama.cpp -B .bench/source/build -G Ninja -DCMAKE_MAKE_PROGRAM="$PWD/.bench/venv/bin/ninja" \
    -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2="$(flag avx2)" -DGGML_FMA="$(flag fma)" \
    -DGGML_F16C="$(flag f16c)" -DGGML_BMI2="$(flag bmi2)" -DGGML_AVX512="$(flag avx512f)" -DGGML_AVX512_VBMI="$(flag avx512_vbmi2)" \
    -DGGML_AVX512_VNNI="$(flag avx512_vnni)" -DGGML_AVX512_BF16="$(flag avx512_bf16)" -DGGML_AVX_VNNI="$(flag avx_vnni)" \
    -DGGML_OPENMP=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF > .bench/source/configure.log
  nice $cmake --build .bench/source/build --target llama-bench llama-quantize llama-server llama-batched-bench > .bench/source/build.log
  mkdir -p .bench/llama/bin
  cp .bench/source/build/bin/llama-{bench,quantize,server,batched-bench} .bench/llama/bin/
  echo "$binding" > .bench/llama/stamp
}

models() {
  PYTHONPATH=models $python -m export.mid --out .bench/models --quantiser .bench/llama/bin/llama-quantize
  [ -f .bench/models/mid/genai/genai_config.json ] || PYTHONPATH=models $python -m export.mid.genai --out .bench/models/mid/genai
}

for step in "${@:-venv llama models}"; do
  for name in $step; do "$name"; done
done
