#!/usr/bin/env bash
# Builds the packages `moed`, `moed-runtime-cpu` and `moed-model-default` out of what is built already; where
# `make model-cuda` has made the GPU's form of the model, `moed-model-default-cuda` too.
#   cross/deb/build.sh [amd64|arm64] [FOLDER]        FOLDER: dist/
# Plain dpkg-deb from a staged tree: it runs on every Debian and Ubuntu, for another architecture as for its own, as any
# user. The same input gives the same bytes. What may be set:
#   BINARY       the daemon for that architecture         target/release/moed, or the cross build's
#   RUN          a command that runs BINARY here          BINARY itself
#   RUNTIME      the folder of the pinned ONNX Runtime    .runtime, or .cross/runtime for arm64
#   VERSION      of the package                           Cargo.toml's
#   MAINTAINER   as Debian spells it
#   COMPRESS     dpkg-deb's options                       -Zxz
#   PACKAGES     which ones                               all that there are
set -euo pipefail
cd "$(dirname "$0")/../.."
umask 022
export LC_ALL=C TZ=UTC
fail() { echo "error: $1" >&2; exit "${2:-70}"; }

case "${1:-$(dpkg --print-architecture)}" in
  amd64) architecture=amd64 machine=x86_64 triplet=x86_64-linux-gnu
    : "${BINARY:=target/release/moed}" "${RUNTIME:=.runtime}" ;;
  arm64) architecture=arm64 machine=aarch64 triplet=aarch64-linux-gnu
    : "${BINARY:=target/cross/aarch64-unknown-linux-gnu/release/moed}" "${RUNTIME:=.cross/runtime}" ;;
  *) fail "packages are made for amd64 and arm64, not for \`$1\`" 64 ;;
esac
out=${2:-dist}
: "${VERSION:=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)}"
: "${MAINTAINER:=moed maintainers <maintainers@moed.example>}"
: "${COMPRESS:=-Zxz}"
: "${PACKAGES:=moed moed-runtime-cpu moed-model-default$([ ! -d models/default/cuda ] || echo " moed-model-default-cuda")}"
# The last commit's time, so that two builds of one state are one and the same file.
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}"
export SOURCE_DATE_EPOCH
# Several threads cut what is compressed into other blocks than one does.
export DPKG_DEB_THREADS_MAX=1
for tool in dpkg-deb readelf strip; do command -v $tool >/dev/null || fail "\`$tool\` is missing: install dpkg and binutils" 69; done
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$out"

# put MODE SOURCE DESTINATION: one file into the tree of the package at hand.
put() { install -D -m "$1" "$2" "$tree$3"; }
# The same, compressed as Debian wants documentation.
put_gzipped() { mkdir -p "$(dirname "$tree$2")"; gzip -9n < "$1" > "$tree$2"; chmod 0644 "$tree$2"; }

# What Debian calls the libraries that an ELF file needs, each as new as the newest symbol that is used of it.
depends_of() {
  local needed newest
  newest() { readelf -W --version-info "$1" | { grep -oE "\b$2_[0-9]+(\.[0-9]+)*\b" || true; } | sed "s/^$2_//" | sort -V | tail -1; }
  for needed in $(readelf -W --dynamic "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
    case $needed in
      libc.so.6 | libm.so.6 | libdl.so.2 | libpthread.so.0 | librt.so.1 | ld-linux*) echo "libc6 (>= $(newest "$1" GLIBC))" ;;
      libgcc_s.so.1) echo "libgcc-s1" ;;
      libsystemd.so.0) echo "libsystemd0 (>= $(newest "$1" LIBSYSTEMD))" ;;
      # GCC 8 brought 3.4.25: https://gcc.gnu.org/onlinedocs/libstdc++/manual/abi.html
      libstdc++.so.6) [ "$(printf '%s\n3.4.25\n' "$(newest "$1" GLIBCXX)" | sort -V | tail -1)" = 3.4.25 ] ||
        fail "$1 needs a libstdc++ newer than GCC 8's" >&2
        echo "libstdc++6 (>= 8)" ;;
      *) fail "$1 needs \`$needed\`, which no package here names" ;;
    esac
  done | sort -u | paste -sd, | sed 's/,/, /g'
}

# The changelog in Debian's shape, from the newest section of CHANGELOG.md.
changelog() {
  printf '%s (%s) unstable; urgency=medium\n\n' "$1" "$2"
  awk '/^## /{section++} section == 1 && /^- /{print substr($0, 3)}' CHANGELOG.md | while IFS= read -r line; do
    fold -s -w 74 <<< "$line" | sed -e '1s/^/  * /' -e '2,$s/^/    /' -e 's/ *$//'
  done
  printf '\n -- %s  %s\n' "$MAINTAINER" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")"
}

# open NAME VERSION: begins a package with what every one has.
open() {
  name=$1 version=$2 tree=$stage/$1
  local from=cross/deb/$1 file
  mkdir -p "$tree/DEBIAN" "$tree/usr/share/doc/$1"
  changelog "$1" "$2" > "$stage/changelog"
  put_gzipped "$stage/changelog" "/usr/share/doc/$1/changelog.gz"
  put 0644 "$from/copyright" "/usr/share/doc/$1/copyright"
  for file in postinst prerm postrm; do
    [ ! -f "$from/$file" ] || install -m 0755 "$from/$file" "$tree/DEBIAN/$file"
  done
  for file in conffiles triggers; do
    [ ! -f "$from/$file" ] || install -m 0644 "$from/$file" "$tree/DEBIAN/$file"
  done
  [ ! -f "$from/lintian-overrides" ] || put 0644 "$from/lintian-overrides" "/usr/share/lintian/overrides/$1"
}

# close ARCHITECTURE DEPENDS: fills in the control file and writes the package.
close() {
  local file="$out/${name}_${version//:/%3a}_$1.deb" size
  size=$(find "$tree" -mindepth 1 -path "$tree/DEBIAN" -prune -o -type f -printf '%s\n' | awk '{kib += int(($1 + 1023) / 1024)} END {print kib}')
  sed -e "s|@VERSION@|$version|; s|@ARCHITECTURE@|$1|; s|@DEPENDS@|$2|; s|@SIZE@|$size|; s|@MAINTAINER@|$MAINTAINER|" \
    "cross/deb/$name/control" > "$tree/DEBIAN/control"
  (cd "$tree" && find . -type f -not -path './DEBIAN/*' -printf '%P\n' | sort | tr '\n' '\0' | xargs -0 md5sum > DEBIAN/md5sums)
  chmod 0644 "$tree/DEBIAN/md5sums" "$tree/DEBIAN/control"
  # shellcheck disable=SC2086
  dpkg-deb --root-owner-group $COMPRESS --build "$tree" "$file" >/dev/null
  (cd "$out" && sha256sum "$(basename "$file")" > "$(basename "$file").sha256")
  echo "$file"
}

elf_is() { readelf -h "$1" | grep -q "Machine:.*$2"; }
machine_pattern=$([ $machine = aarch64 ] && echo AArch64 || echo X86-64)

pack_moed() {
  [ -x "$BINARY" ] || fail "there is no \`$BINARY\`: \`make build\` or \`make cross\` builds it" 69
  elf_is "$BINARY" "$machine_pattern" || fail "\`$BINARY\` is not for $architecture" 78
  local -a run
  # shellcheck disable=SC2206
  run=(${RUN:-$BINARY})
  open moed "$VERSION"
  local file
  put 0755 "$BINARY" /usr/bin/moed
  # The cross build has no symbols to begin with: strip knows its own architecture alone.
  if [ "$architecture" = "$(dpkg --print-architecture)" ]; then
    strip --strip-unneeded --remove-section=.comment "$tree/usr/bin/moed"
  fi
  put 0644 systemd/moed.toml /etc/moed/moed.toml
  put 0644 systemd/moed.full.toml /usr/share/doc/moed/examples/moed.full.toml
  put_gzipped README.md /usr/share/doc/moed/README.md.gz
  for file in systemd/mosquitto/*; do put 0644 "$file" "/usr/share/doc/moed/examples/mosquitto/$(basename "$file")"; done
  put 0644 systemd/moed.sysusers /usr/lib/sysusers.d/moed.conf
  for file in systemd/*.service systemd/*.socket; do put 0644 "$file" "/usr/lib/systemd/system/$(basename "$file")"; done
  for file in systemd/drop-ins/*.conf; do put 0644 "$file" "/usr/share/moed/drop-ins/$(basename "$file")"; done
  put 0755 systemd/drop-ins/select.sh /usr/share/moed/drop-ins/select.sh
  "${run[@]}" man "$stage/man"
  for file in "$stage"/man/*.1; do put_gzipped "$file" "/usr/share/man/man1/$(basename "$file").gz"; done
  "${run[@]}" completions bash > "$stage/completions" && put 0644 "$stage/completions" /usr/share/bash-completion/completions/moed
  "${run[@]}" completions zsh > "$stage/completions" && put 0644 "$stage/completions" /usr/share/zsh/vendor-completions/_moed
  "${run[@]}" completions fish > "$stage/completions" && put 0644 "$stage/completions" /usr/share/fish/vendor_completions.d/moed.fish
  python3 cross/deb/notices.py "$machine-unknown-linux-gnu" > "$stage/notices"
  put_gzipped "$stage/notices" /usr/share/doc/moed/third-party.txt.gz
  local depends
  depends=$(depends_of "$tree/usr/bin/moed")
  close "$architecture" "$depends"
}

pack_runtime() {
  local library
  library=$(readlink -f "$RUNTIME/libonnxruntime.so" || true)
  [ -f "$library" ] || fail "there is no ONNX Runtime in \`$RUNTIME\`: \`cross/fetch-runtime.sh $machine $RUNTIME\`" 69
  elf_is "$library" "$machine_pattern" || fail "\`$library\` is not for $architecture" 78
  open moed-runtime-cpu "$(basename "$library" | sed 's/libonnxruntime\.so\.//')+moed$VERSION"
  # As its makers built it: not stripped, so that its digest can be compared with theirs.
  put 0644 "$library" "/usr/lib/moed/$(basename "$library")"
  ln -s "$(basename "$library")" "$tree/usr/lib/moed/libonnxruntime.so"
  put_gzipped "$RUNTIME/ThirdPartyNotices.txt" /usr/share/doc/moed-runtime-cpu/ThirdPartyNotices.txt.gz
  { cat cross/deb/moed-runtime-cpu/copyright; sed -e 's/\r$//' -e '1,/^Copyright/d' "$RUNTIME/LICENSE" | sed -e '1{/^$/d}' -e 's/^$/./' -e 's/^/ /'; } > "$stage/copyright"
  put 0644 "$stage/copyright" /usr/share/doc/moed-runtime-cpu/copyright
  local depends
  depends=$(depends_of "$library")
  close "$architecture" "$depends"
}

# pack_model NAME FOLDER DEPENDS
pack_model() {
  local file from=models/$2
  [ -f "$from/manifest.toml" ] || fail "there is no model in \`$from\`: \`make model-cuda\` makes it" 69
  open "$1" "$VERSION"
  # What the manifest names and the manifest itself: what lies beside them by chance is not the model.
  for file in manifest.toml $(sed -n 's/^"\([^"]*\)" = "sha256:.*/\1/p' "$from/manifest.toml"); do
    put 0644 "$from/$file" "/usr/share/moed/models/$2/$file"
  done
  close all "$3"
}

for package in $PACKAGES; do
  case $package in
    moed) pack_moed ;;
    moed-runtime-cpu) pack_runtime ;;
    moed-model-default) pack_model "$package" default "" ;;
    moed-model-default-cuda) pack_model "$package" default/cuda "moed-model-default (= $VERSION)" ;;
    *) fail "there is no package \`$package\`" 64 ;;
  esac
done
