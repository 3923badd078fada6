#!/bin/bash
# root.sh SUITE FOLDER: a small Debian of another suite, for boot.sh to boot instead of this machine's own. Made once, as
# root, from the mirror that this machine's apt uses, or from $MIRROR. 69, and why, where it cannot be made.
set -eu
suite=$1 folder=$2
[ ! -e "$folder/made" ] || exit 0
cannot() { echo "no root of $suite: $1" >&2; exit 69; }
[ "$(id -u)" = 0 ] || cannot "needs root: packages have owners"
mirror=${MIRROR:-$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Identifier: Packages' 2>/dev/null | sed -n 's/^Debian //p' | head -1)}
[ -n "$mirror" ] || cannot "this machine's apt knows no mirror of Debian; MIRROR=URL names one"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keys" ] || cannot "\`$keys\` is missing: install debian-archive-keyring"
if ! command -v debootstrap >/dev/null; then
  apt-get install -y -qq --no-install-recommends debootstrap >/dev/null 2>&1 || cannot "debootstrap cannot be installed"
fi
echo "making a root of $suite in $folder: a minute" >&2
rm -rf "$folder"
mkdir -p "$folder"
# What the cases use, a broker, and what the packages need.
debootstrap --variant=minbase --keyring="$keys" --include=systemd,systemd-sysv,dbus,libstdc++6,curl,python3-minimal,mosquitto,mosquitto-clients \
  "$suite" "$folder/root" "$mirror" >"$folder/log" 2>&1 || cannot "debootstrap: $(tail -1 "$folder/log")"
rm -rf "$folder"/root/var/cache/apt/archives/*.deb "$folder"/root/var/lib/apt/lists/*
touch "$folder/made"
