#!/bin/sh
# select.sh FOLDER [gpu]: links into FOLDER the drop-ins that fit this machine's systemd, and takes out those that do not.
# FOLDER is moed.service.d or moed@.service.d below /usr/lib/systemd/system or /etc/systemd/system. A unit key that systemd
# does not know is a warning in the log at every load: hence by version.
set -eu
folder=$1
here=$(cd "$(dirname "$0")" && pwd)
version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
[ -n "$version" ] || { echo "select.sh: no systemd here" >&2; exit 69; }
mkdir -p "$folder"
for since in 249 254; do
  if [ "$version" -ge "$since" ]; then
    ln -sf "$here/$since.conf" "$folder/$since.conf"
  else
    rm -f "$folder/$since.conf"
  fi
done
if [ "${2:-}" = gpu ]; then
  ln -sf "$here/gpu.conf" "$folder/gpu.conf"
fi
