#!/bin/sh
# The seed, as somebody who knows their trade writes it: each step looks before it does, and nothing is done twice.
# URL and DIGEST are those of the program.
set -eu
changed=0
change() { changed=$((changed + 1)); "$@"; }
access() { # PATH OWNER MODE
  [ "$(stat -c '%U:%G' "$1")" = "$2" ] || change chown "$2" "$1"
  [ "$(stat -c '%a' "$1")" = "$3" ] || change chmod "$3" "$1"
}

getent group kubernetes >/dev/null || change groupadd --system kubernetes
getent passwd kubernetes >/dev/null ||
  change useradd --system --gid kubernetes --home-dir /etc/kubernetes --no-create-home --shell /usr/sbin/nologin kubernetes

[ -d /etc/kubernetes ] || change mkdir /etc/kubernetes
[ -d /etc/kubernetes/pki ] || change mkdir /etc/kubernetes/pki
[ -z "$(find /etc/kubernetes ! '(' -user kubernetes -group kubernetes ')' -print -quit)" ] ||
  change chown -R kubernetes:kubernetes /etc/kubernetes
access /etc/kubernetes kubernetes:kubernetes 755
access /etc/kubernetes/pki kubernetes:kubernetes 700

program=/usr/local/sbin/kubelet
if ! echo "$DIGEST  $program" | sha256sum --check --status 2>/dev/null; then
  curl --silent --show-error --fail --output "$program.new" "$URL"
  echo "$DIGEST  $program.new" | sha256sum --check --status
  change mv "$program.new" "$program"
fi
access "$program" root:root 755

unit=/etc/systemd/system/kubelet-version.service
if ! cmp --silent /root/kubelet-version.service "$unit"; then
  change install --mode=644 /root/kubelet-version.service "$unit"
  systemctl daemon-reload
fi
access "$unit" root:root 644
systemctl is-enabled --quiet kubelet-version.service || change systemctl enable --quiet kubelet-version.service
systemctl is-active --quiet kubelet-version.service || change systemctl start kubelet-version.service
echo "changed=$changed"
