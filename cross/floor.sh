#!/usr/bin/env bash
# Holds a program to what its boards have: the architecture, the newest glibc symbol, the libraries.
#   cross/floor.sh FILE MACHINE GLIBC        FILE's newest glibc symbol, or an error
set -euo pipefail
export LC_ALL=C
file=$1 machine=$2 most=$3
fail() { echo "error: \`$file\` $1" >&2; exit 70; }
readelf -h "$file" | grep -q "Machine:.*$machine" || fail "is not for $machine"
newest=$(readelf -W --version-info "$file" | grep -oE '\bGLIBC_[0-9.]+' | sort -Vu | tail -1)
newest=${newest#GLIBC_}
[ -n "$newest" ] || fail "names no glibc symbol: what is it?"
[ "$(printf '%s\n%s\n' "$newest" "$most" | sort -V | tail -1)" = "$most" ] || fail "needs glibc $newest, at most $most was wanted"
for library in $(readelf -W --dynamic "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
  case $library in
    libc.so.6 | libm.so.6 | libdl.so.2 | libpthread.so.0 | librt.so.1 | libgcc_s.so.1 | libsystemd.so.0 | ld-linux*) ;;
    *) fail "needs \`$library\`, which a board may not have" ;;
  esac
done
echo "$file: $machine, glibc $newest or newer"
