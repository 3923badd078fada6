#!/usr/bin/env bash
# Installs the packages of a folder into a throwaway copy of this system, upgrades, breaks, removes and purges them, and
# says what must hold after each step. Nothing outside changes: an overlay over `/` in a mount namespace of its own.
#   cross/deb/try.sh FOLDER NEWER_MOED_DEB        as root; exits 69 where the kernel forbids it
# A systemctl that writes down what it is told stands in for systemd.
set -euo pipefail
if [ "${1:-}" != --inside ]; then
  [ "$(id -u)" = 0 ] || { echo "error: needs root: packages have owners" >&2; exit 69; }
  unshare --mount true 2>/dev/null || { echo "error: the kernel allows no mount namespace here" >&2; exit 69; }
  exec unshare --mount --fork --kill-child bash "$0" --inside "$(realpath "$1")" "$(realpath "$2")"
fi
packages=$2 newer=$3
mount --make-rprivate /
scratch=$(mktemp -d)
trap 'umount -R -l "$scratch" 2>/dev/null || true; rmdir "$scratch"' EXIT
mount -t tmpfs -o mode=0755 scratch "$scratch"
mkdir "$scratch"/{upper,work,root}
mount -t overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$scratch/root" 2>/dev/null ||
  { echo "error: the kernel allows no overlay over / here" >&2; exit 69; }
root=$scratch/root
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mkdir -p "$root/tmp/debs" "$root/run/systemd/system" "$root/run/active"
for name in moed moed-runtime-cpu moed-model-default; do cp "$packages/${name}"_*.deb "$root/tmp/debs/$name.deb"; done
cp "$newer" "$root/tmp/newer.deb"
rm -f "$root/usr/sbin/policy-rc.d"
# Its index is rebuilt after every step otherwise.
rm -f "$root/var/lib/man-db/auto-update"
cat > "$scratch/systemctl" <<'STUB'
#!/bin/sh
for unit; do :; done
case "$*" in
  *is-active*) [ -e "/run/active/$unit" ] ;;
  *daemon-reload*) ;;
  *list-units*) cd /run/active && for unit in moed@*.service; do [ ! -e "$unit" ] || echo "$unit loaded active running"; done ;;
  *start* | *stop*)
    for word; do
      case $word in
        start | restart | stop) verb=$word ;;
        *.service | *.socket)
          echo "$verb $word" >> /run/told
          if [ "$verb" = stop ]; then rm -f "/run/active/$word"; else : > "/run/active/$word"; fi ;;
      esac
    done ;;
  # What works on files alone: preset, is-enabled.
  *) SYSTEMD_OFFLINE=1 exec /usr/bin/systemctl.real "$@" ;;
esac
STUB
mv "$root$(readlink -f "$(command -v systemctl)")" "$root/usr/bin/systemctl.real"
install -m 0755 "$scratch/systemctl" "$root$(readlink -f "$(command -v systemctl)")"

within() { chroot "$root" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
# What the step said, and what systemd was told in it.
step() { now=$1; : > "$root/run/told"; }
done_with() { if ! within "$@" > "$scratch/said" 2>&1; then cat "$scratch/said"; echo "FAILED $now: $*"; exit 1; fi; }
holds() {
  local what=$1
  shift
  if "$@"; then echo "ok  $now: $what"; return; fi
  echo "FAILED $now: $what"
  echo "--- told"; cat "$root/run/told"; echo "--- said"; cat "$scratch/said"
  exit 1
}
told() { [ "$(paste -sd' ' "$root/run/told")" = "$1" ]; }
said() { grep -qF -- "$1" "$scratch/said"; }
enabled() { within systemctl is-enabled moed.service >/dev/null && within systemctl is-enabled moed.socket >/dev/null; }
user() { within getent passwd moed >/dev/null && within getent group moed-clients >/dev/null; }
mode_is() { [ "$(stat -c '%U:%G %a' "$root$1")" = "$2" ]; }
not() { ! "$@"; }
config=$root/etc/moed/moed.toml

step "the daemon alone"
done_with dpkg -i /tmp/debs/moed.deb
holds "it is not started, there is no model" told ""
holds "and it says what it misses, and where" said "/usr/share/moed/models/default"
holds "user and groups are made" user
holds "units are enabled" enabled

step "runtime and model"
done_with dpkg -i /tmp/debs/moed-runtime-cpu.deb /tmp/debs/moed-model-default.deb
holds "now it starts, once, the socket first" told "start moed.socket restart moed.service"
holds "the model passes its self-test" within sh -c 'cd / && HOME=/nonexistent XDG_RUNTIME_DIR=/run STATE_DIRECTORY=/tmp CACHE_DIRECTORY=/tmp/cache moed check --models --config /etc/moed/moed.toml > /tmp/check && grep -q "self-test passed" /tmp/check'
holds "the config is root's" mode_is /etc/moed/moed.toml "root:root 644"

step "upgrade with a broken config"
cp "$config" "$scratch/config"
printf '\n[queue]\ndepht = 3\n' >> "$config"
done_with dpkg --force-confold -i /tmp/newer.deb
holds "nothing is restarted" told ""
holds "it says that the old one goes on" said "goes on running as it was"
holds "and names the setting" said "depht"
holds "the config is untouched" grep -q depht "$config"

step "upgrade"
cp "$scratch/config" "$config"
done_with dpkg -i /tmp/debs/moed.deb
done_with dpkg -i /tmp/newer.deb
holds "each restarts the service, and never stops it before" told "start moed.socket restart moed.service start moed.socket restart moed.service"

step "upgrade with a password that only systemd can hand in"
printf '[mqtt]\nurl = "mqtt://127.0.0.1"\nuser = "moed"\npassword_file = "mqtt-password"\n' > "$config"
done_with dpkg --force-confold -i /tmp/newer.deb
holds "it is restarted: the unit's own check sees the credential" told "start moed.socket restart moed.service"
cp "$scratch/config" "$config"

step "a runtime that goes"
done_with dpkg -r moed-runtime-cpu
holds "the running daemon is left alone" told ""
done_with dpkg -i /tmp/debs/moed-runtime-cpu.deb
holds "and uses the new one when it comes" told "start moed.socket restart moed.service"

step "upgrade of a service that was disabled and stopped"
rm "$root"/etc/systemd/system/*.wants/moed.* "$root"/run/active/*
done_with dpkg -i /tmp/newer.deb
holds "it is not started" told ""
holds "it stays disabled" not enabled

step "upgrade with a second daemon that runs and a third whose config is broken"
printf '[mqtt]\nurl = ""\n' > "$root/etc/moed/second.toml"
echo 'nonsense = 1' > "$root/etc/moed/third.toml"
touch "$root/run/active/moed@second.service" "$root/run/active/moed@third.service"
done_with dpkg -i /tmp/debs/moed.deb
holds "only the sound one is restarted" told "restart moed@second.service"
holds "the other one is named" said "moed@third.service goes on running as it was"
rm "$root"/etc/moed/*second.toml "$root"/etc/moed/third.toml "$root"/run/active/moed@*

linked() { find "$root/usr/lib/systemd/system/moed.service.d" -name '*.conf' -printf '%f\n' 2>/dev/null | sort | paste -sd' '; }
fits() { [ "$(linked)" = "$1" ]; }
version=$(within systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
step "drop-ins"
holds "those that this systemd knows are linked" fits "$(for since in 249 254; do [ "$version" -lt $since ] || echo $since.conf; done | paste -sd' ')"
rm -rf "$root"/usr/lib/systemd/system/moed*.service.d
done_with dpkg-trigger --by-package=systemd /usr/lib/systemd/systemd
done_with dpkg --configure -a
holds "another systemd links them anew" test -n "$(linked)"
holds "and restarts nothing" told ""

step "remove"
done_with systemctl enable moed.service moed.socket
touch "$root/run/active/moed.service" "$root/run/active/moed.socket"
mkdir -p "$root/var/lib/moed"
touch "$root/var/lib/moed/journal.redb"
done_with dpkg -r moed
holds "socket and service are stopped" told "stop moed@*.socket stop moed@*.service stop moed.socket stop moed.service"
holds "the config stays" test -f "$config"
holds "the journal stays" test -f "$root/var/lib/moed/journal.redb"
holds "no drop-in is left" not test -e "$root/usr/lib/systemd/system/moed.service.d"
holds "the program is gone" not test -e "$root/usr/bin/moed"

step "purge"
touch "$root/etc/moed/of-the-operator.toml"
done_with dpkg -P moed moed-runtime-cpu moed-model-default
holds "the config is gone" not test -e "$config"
holds "a file of the operator is not" test -f "$root/etc/moed/of-the-operator.toml"
holds "the journal is gone" not test -e "$root/var/lib/moed"
holds "no unit stays enabled" test -z "$(find "$root/etc/systemd" "$root/var/lib/systemd/deb-systemd-helper-enabled" -name 'moed*' 2>/dev/null)"
holds "nothing is left in /usr" test -z "$(find "$root"/usr/lib/moed "$root"/usr/share/moed "$root"/usr/share/doc/moed* 2>/dev/null)"

if command -v adduser >/dev/null; then
  step "without systemd-sysusers"
  within userdel moed
  within groupdel moed-clients
  rm "$root$(readlink -f "$(command -v systemd-sysusers)")"
  holds "there is no user" not user
  done_with dpkg -i /tmp/debs/moed.deb /tmp/debs/moed-runtime-cpu.deb /tmp/debs/moed-model-default.deb
  holds "adduser makes user and groups" user
  holds "and the service starts" told "start moed.socket start moed.service"
fi
