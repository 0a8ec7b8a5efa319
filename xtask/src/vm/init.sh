#!/bin/busybox sh
# First process of the virtual machine: shows the host's files, copied on write, and
# goes on there. Whatever fails here ends the machine, with its reason on the console.
set -e
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
while read -r module; do busybox insmod "/modules/$module"; done </modules/order

busybox mount -t virtiofs -o ro root /lower
busybox mount -t tmpfs tmpfs /written
busybox mkdir /written/upper /written/work
busybox mount -t overlay -o lowerdir=/lower,upperdir=/written/upper,workdir=/written/work overlay /new

for folder in proc sys dev; do busybox mount --move "/$folder" "/new/$folder"; done
for folder in run tmp; do busybox mount -t tmpfs tmpfs "/new/$folder"; done
busybox mkdir -p /new/dev/pts /new/dev/shm /new/run/job
busybox mount -t devpts devpts /new/dev/pts
busybox mount -t tmpfs tmpfs /new/dev/shm
busybox mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
busybox mount -t virtiofs job /new/run/job
exec busybox switch_root /new /bin/sh /run/job/start
