#!/usr/bin/env bash
# Debian's own Rust compiler with the standard library for aarch64, unpacked into a folder: the way for machines where
# rustup cannot be had. Needs no root and changes nothing of the system; the host's own mirrors are asked, through a
# package list of its own, so that no foreign architecture has to be added to the system.
#   cross/debian-rust.sh FOLDER            FOLDER/rustc is the compiler
set -euo pipefail
need=1.92
fail() { echo "error: $1" >&2; exit 69; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
[ ! -x "$folder/rustc" ] || exit 0
# shellcheck disable=SC1091
. /etc/os-release
[ "$ID" = debian ] || fail "there is no \`rustup\`, and $PRETTY_NAME keeps its arm64 packages where this machine's mirrors do not reach: install rustup (\`apt-get install rustup\`) and try again"

apt=$folder/apt
mkdir -p "$apt"/{lists/partial,cache/archives/partial,state}
# Where the host gets each of its suites from; backports lie where the suite itself does.
mirror_of() { apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Identifier: Packages' | awk -v suite="$1" '$2 == suite {print $1; exit}'; }
: > "$apt/sources.list"
for suite in "$VERSION_CODENAME" "$VERSION_CODENAME-security" "$VERSION_CODENAME-backports"; do
  mirror=$(mirror_of "$suite")
  case $suite in *-backports) mirror=${mirror:-$(mirror_of "$VERSION_CODENAME")} ;; esac
  [ -z "$mirror" ] || echo "deb [arch=amd64,arm64] $mirror $suite main" >> "$apt/sources.list"
done
options=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State=$apt/state"
  -o "Dir::State::Lists=$apt/lists" -o Dir::State::status=/var/lib/dpkg/status -o "Dir::Cache=$apt/cache"
  -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Architectures::=arm64 -o APT::Sandbox::User=root
  -o Acquire::Languages=none -o Debug::NoLocking=1 -o Acquire::Retries=3)
echo "cross: reading Debian's package lists for arm64" >&2
apt-get "${options[@]}" update >&2

# `rustc-web` is what Debian's browsers are built with and is renewed in stable releases; `rustc` is the suite's own.
for flavour in -web ""; do
  version=$(apt-cache "${options[@]}" madison "libstd-rust$flavour-dev:arm64" | awk -F' *[|] *' '{print $2}' | sort -Vu | tail -1)
  [ -z "$version" ] || [ "$(printf '%s\n%s\n' "$need" "$version" | sort -V | head -1)" != $need ] || break
  version=
done
[ -n "$version" ] || fail "$PRETTY_NAME has no Rust of $need or newer for arm64"
echo "cross: unpacking Debian's rustc$flavour $version" >&2
# What the compiler needs that this machine lacks, and the one package for the target.
wanted=$(apt-get "${options[@]}" -s install --no-install-recommends "rustc$flavour=$version" "libstd-rust$flavour-dev=$version" |
  sed -n 's/^Inst \([^ :]*\)[^(]*(\([^ ]*\) .*/\1=\2/p' | grep -v '^\(gcc\|g++\|cpp\|binutils\|libc6\)' || true)
mkdir -p "$folder/debs"
# shellcheck disable=SC2086
(cd "$folder/debs" && apt-get "${options[@]}" download $wanted "libstd-rust$flavour-dev:arm64=$version" >&2)
for package in "$folder"/debs/*.deb; do dpkg-deb -x "$package" "$folder/tree"; done
rm -rf "$folder/debs" "$apt"
cat > "$folder/rustc" <<'WRAPPER'
#!/bin/sh
# The compiler finds its standard libraries by its own place, and LLVM by this.
usr=$(dirname "$(readlink -f "$0")")/tree/usr
LD_LIBRARY_PATH="$usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "$usr/bin/rustc" "$@"
WRAPPER
chmod +x "$folder/rustc"
"$folder/rustc" --version >&2
