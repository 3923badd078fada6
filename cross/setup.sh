#!/usr/bin/env bash
# Makes `.cross/`: what builds the daemon for aarch64 on an x86-64 Debian or Ubuntu, and with `--emulation` what runs it.
# Needs no root and installs nothing. Each part is left alone once it is there. README.md beside this file explains them.
#   cross/setup.sh [--emulation]
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
kit=$PWD/.cross
mkdir -p "$kit"
fail() { echo "error: $1" >&2; exit "${2:-69}"; }
say() { echo "cross: $1" >&2; }

# zig: a linker and C compiler that can be told which glibc to link for. From the Python package index, digests pinned.
need_zig() {
  local want
  want=$(sha256sum cross/requirements.txt | cut -d' ' -f1)
  [ "$(cat "$kit/venv/requirements.sha256" 2>/dev/null)" != "$want" ] || return 0
  say "installing zig and cargo-zigbuild into .cross/venv"
  rm -rf "$kit/venv"
  python3 -m venv "$kit/venv"
  "$kit/venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary=:all: \
    --requirement cross/requirements.txt
  echo "$want" > "$kit/venv/requirements.sha256"
}

# The standard library for the target: the compiler's own, else rustup's, else Debian's.
has_std() { ls "$("$1" --print target-libdir --target $target 2>/dev/null)"/libstd-*.rlib >/dev/null 2>&1; }
need_std() {
  # CROSS_STD=debian skips the first two, to see that the third works.
  if [ "${CROSS_STD:-}" != debian ]; then
    rm -f "$kit/compiler"
    ! has_std rustc || return 0
    if command -v rustup >/dev/null; then
      say "rustup target add $target"
      rustup target add $target >&2 || say "rustup could not; taking Debian's packages"
      ! has_std rustc || return 0
    fi
  fi
  cross/debian-rust.sh "$kit/rust"
  has_std "$kit/rust/rustc" || fail "Debian's compiler in .cross/rust has no standard library for $target" 70
  echo "$kit/rust/rustc" > "$kit/compiler"
}

# A library with libsystemd's names and versions and nothing behind them: linking needs no more. The program loads the
# board's own; under emulation this one says what libsystemd says where no systemd runs.
need_libsystemd() {
  local place=$kit/libsystemd
  [ ! "$place/libsystemd.so.0" -nt cross/libsystemd.symbols ] || return 0
  mkdir -p "$place"
  awk '/^sd_/ {
    # Nobody to tell, nothing passed, no journal.
    print "int " $1 "(void) { return " ($1 ~ /^sd_journal/ ? -38 : 0) "; }" }' cross/libsystemd.symbols > "$place/libsystemd.c"
  awk '/^sd_/ { names[$2] = names[$2] " " $1 ";" }
    END { for (version in names) print version " { global:" names[version] " };" }' cross/libsystemd.symbols |
    sort > "$place/libsystemd.map"
  "$kit/venv/bin/python" -m ziglang cc -target aarch64-linux-gnu.2.31 -O1 -shared -o "$place/libsystemd.so.0" \
    -Wl,-soname,libsystemd.so.0 -Wl,--version-script="$place/libsystemd.map" "$place/libsystemd.c"
  ln -sf libsystemd.so.0 "$place/libsystemd.so"
}

# The version that the distribution offers of a package; nothing where there is none.
candidate() { LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p' | { grep -v none || true; }; }
# unpack FOLDER PACKAGE...: packages of the distribution, unpacked.
unpack() {
  local folder=$1 scratch package
  shift
  for package; do
    [ -n "$(candidate "$package")" ] ||
      fail "the distribution offers no package \`$package\` (after \`apt-get update\`?)"
  done
  scratch=$(mktemp -d)
  (cd "$scratch" && apt-get download -qq -o APT::Sandbox::User=root "$@" && for package in *.deb; do dpkg-deb -x "$package" unpacked; done) >&2
  mkdir -p "$folder"
  cp -a "$scratch/unpacked/." "$folder/"
  rm -rf "$scratch"
}

# qemu-user, an aarch64 C and C++ library to run on, and the pinned ONNX Runtime.
need_emulation() {
  local qemu root=$kit/sysroot/usr/aarch64-linux-gnu number
  if [ ! -e "$root/lib/libstdc++.so.6" ]; then
    say "unpacking an aarch64 C and C++ library into .cross/sysroot"
    unpack "$kit/sysroot" libc6-arm64-cross libgcc-s1-arm64-cross libstdc++6-arm64-cross
  fi
  cp "$kit/libsystemd/libsystemd.so.0" "$root/lib/"
  if [ ! -f "$root/proc/cpuinfo" ]; then
    # qemu before 8 shows its guest this machine's x86 processors, on which ONNX Runtime falls over.
    mkdir -p "$root/proc"
    for number in $(seq 0 $(($(nproc) - 1))); do
      printf 'processor\t: %s\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\n' "$number"
      printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n'
    done > "$root/proc/cpuinfo"
  fi
  qemu=$(command -v qemu-aarch64 || command -v qemu-aarch64-static || ls "$kit"/qemu/usr/bin/qemu-aarch64{,-static} 2>/dev/null | head -1 || true)
  if [ -z "$qemu" ]; then
    say "unpacking qemu-user into .cross/qemu"
    # Debian 13 has the static one under the plain name.
    case $(candidate qemu-user-static) in
      1:[78].*) unpack "$kit/qemu" qemu-user-static ;;
      *) unpack "$kit/qemu" qemu-user ;;
    esac
    qemu=$(ls "$kit"/qemu/usr/bin/qemu-aarch64{,-static} 2>/dev/null | head -1 || true)
  fi
  # Of the processors that qemu knows the nearest to a Jetson Orin's.
  printf '#!/bin/sh\nexec %s -cpu cortex-a76 -L %s "$@"\n' "$qemu" "$root" > "$kit/emulate"
  chmod +x "$kit/emulate"
  cross/fetch-runtime.sh aarch64 .cross/runtime
}

[ "$(uname -m)" = x86_64 ] || fail "cross builds are made on x86-64; on aarch64 \`make build\` builds for aarch64"
need_zig
need_std
need_libsystemd
[ "${1:-}" != --emulation ] || need_emulation
