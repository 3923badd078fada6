#!/bin/bash
# boot.sh OUT TREE BINARY CASES...: boots a real systemd as PID 1 in namespaces of its own, on a throw-away layer over this
# machine's files (or over those of $ROOT), installs moed in it from TREE (or from the packages in $DEBS, which those in
# $NEWER upgrade), and runs CASES of cases.sh. Root only.
# What the cases say is in OUT/results, the journal in OUT/journal; 77 where the kernel does not allow it.
set -eu
if [ "${INSIDE:-}" != yes ]; then
  out=$1
  unshare --mount --pid --fork true 2>"$out/why" || exit 77
  # A group of its own, so that its slices do not stand among this machine's, and nothing of them stays.
  groups=$(findmnt --types cgroup2 --noheadings --output TARGET | head -1)
  group=$groups/moed-boot.$$
  home=$groups$(sed -n 's/^0:://p' /proc/self/cgroup)
  if [ -n "$groups" ] && mkdir "$group" 2>/dev/null; then
    # shellcheck disable=SC2064
    trap "echo $$ >'$home/cgroup.procs'; find '$group' -depth -type d -exec rmdir {} + 2>/dev/null || true" EXIT
    echo $$ >"$group/cgroup.procs"
  fi
  # `--kill-child`: whatever happens to us, nothing of it runs on.
  # And whatever hangs in there, it ends.
  code=0
  INSIDE=yes timeout --signal=KILL 25m unshare --mount --pid --fork --uts --ipc --net --cgroup --kill-child "$0" "$@" || code=$?
  exit $code
fi
out=$1 tree=$2 binary=$3
shift 3
cannot() { echo "$1" >"$out/why"; exit 77; }
mount --make-rprivate /
base=$(mktemp -d)
mount -t tmpfs -o mode=755 tmpfs "$base"
mkdir "$base"/{upper,work,root,tree}
root=$base/root
mount --bind "$tree" "$base/tree"
mount -t overlay -o "lowerdir=${ROOT:-/},upperdir=$base/upper,workdir=$base/work" overlay "$root" 2>"$out/why" || cannot "no overlay: $(cat "$out/why")"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys" 2>/dev/null || mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup" 2>/dev/null || true
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup" 2>"$out/why" || cannot "no cgroup2: $(cat "$out/why")"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
  touch "$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root"/dev/{pts,shm}
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ip link set lo up 2>/dev/null || true

# A machine with nothing of its own: only what this script enables is started.
mkdir -p "$root/etc/systemd/system" "$root/var/log" "$root/mnt/out" "$root/mnt/tree"
rm -rf "$root"/etc/systemd/system/*.wants "$root"/var/lib/systemd/timers
for unit in systemd-udevd systemd-udev-trigger systemd-networkd systemd-resolved systemd-timesyncd systemd-sysctl \
  systemd-modules-load systemd-remount-fs systemd-tmpfiles-setup-dev systemd-update-utmp systemd-logind; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit.service"
done
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\nRateLimitBurst=0\n' >"$root/etc/systemd/journald.conf.d/boot.conf"
# Containers that are built forbid services to start.
rm -f "$root/usr/sbin/policy-rc.d"
mount --bind "$out" "$root/mnt/out"
mount --bind "$base/tree" "$root/mnt/tree"
mount -o remount,bind,ro "$root/mnt/tree" 2>/dev/null || true
# These two may be links that lead out of the tree.
if [ -d "$tree/.tools/mosquitto" ]; then
  mkdir "$root/mnt/mosquitto"
  mount --bind "$(readlink -f "$tree/.tools/mosquitto")" "$root/mnt/mosquitto"
fi
if [ -n "${DEBS:-}" ]; then
  mkdir "$root/mnt/debs" "$root/mnt/newer"
  mount --bind "$DEBS" "$root/mnt/debs"
  mount --bind "$NEWER" "$root/mnt/newer"
else
  mkdir "$root/mnt/runtime"
  mount --bind "$(readlink -f "$tree/.runtime")" "$root/mnt/runtime"
  touch "$root/usr/bin/moed"
  mount --bind "$binary" "$root/usr/bin/moed"
fi

cat >"$root/etc/systemd/system/boot.target" <<END
[Unit]
Requires=basic.target cases.service
After=basic.target
AllowIsolate=yes
END
cat >"$root/etc/systemd/system/cases.service" <<END
[Unit]
After=basic.target
[Service]
Type=oneshot
StandardOutput=file:/mnt/out/log
StandardError=inherit
Environment="CASES=$*" TREE=/mnt/tree OUT=/mnt/out
ExecStart=/bin/bash /mnt/tree/tests/boot/cases.sh
ExecStopPost=/bin/sh -c 'journalctl --no-pager -o short-monotonic >/mnt/out/journal; systemctl exit --force --no-block'
END
cd "$root"
mkdir -p "$root/old"
pivot_root . old
mount --make-rshared /
umount -l /old
exec env -i container=boot PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=boot.target --log-target=journal --show-status=no </dev/null >/mnt/out/console 2>&1
