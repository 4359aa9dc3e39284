#!/usr/bin/env bash
# The first process of one host: private mounts, then its sshd. Runs inside the host's own namespaces.
#   host.sh NAME SCRATCH [FOLDER...]    FOLDERs (Python, the checkout) stay visible where they lie below /tmp
set -euo pipefail
name=$1; scratch=$2; shift 2
mount --make-rprivate /
hostname "$name"
mount -t tmpfs tmpfs /mnt
mkdir /mnt/up /mnt/work /mnt/shared
mount --bind "$scratch/shared" /mnt/shared            # what an NFS server would give to every host
mount -t overlay overlay -o lowerdir=/root,upperdir=/mnt/up,workdir=/mnt/work /root
mount --bind "$scratch/hosts" /etc/hosts
i=0
for folder in "$scratch" "$@"; do
  case $folder in /tmp/*) i=$((i + 1)); mkdir "/mnt/keep$i"; mount --bind "$folder" "/mnt/keep$i" ;; esac
done
mount -t tmpfs -o mode=1777 tmpfs /tmp
i=0
for folder in "$scratch" "$@"; do
  case $folder in /tmp/*) i=$((i + 1)); mkdir -p "$folder"; mount --move "/mnt/keep$i" "$folder" ;; esac
done
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
rm -rf /root/.ray /root/.aws /root/.ssh               # in the overlay: this host's own home
echo "export PATH=$PATH" > /root/.bashrc
echo '. ~/.bashrc' > /root/.bash_profile
exec /usr/sbin/sshd -D -e -f "$scratch/sshd"
