#!/usr/bin/env bash
# Builds the daemon for aarch64 Linux with glibc 2.31 (JetPack 5, Ubuntu 20.04) or newer, and checks that it came out so.
#   cross/build.sh [CARGO OPTIONS]        target/cross/aarch64-unknown-linux-gnu/release/moed
set -euo pipefail
cd "$(dirname "$0")/.."
glibc=2.31
target=aarch64-unknown-linux-gnu
cross/setup.sh
kit=$PWD/.cross
[ ! -f "$kit/compiler" ] || { RUSTC=$(cat "$kit/compiler"); export RUSTC; }
export PATH=$kit/venv/bin:$PATH
export SYSTEMD_LIB_DIR=$kit/libsystemd
# A folder of its own: it may be another compiler than the one of the builds beside it.
export CARGO_TARGET_DIR=target/cross
# No strip here knows the target.
export CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_PROFILE_RELEASE_DEBUG=none
# No path of this machine in the program: builds from two folders are the same.
export RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$PWD=/moed"
cargo-zigbuild zigbuild --release --locked --target $target.$glibc "$@"
cross/floor.sh target/cross/$target/release/moed AArch64 $glibc
