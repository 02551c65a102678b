#!/bin/sh
# The first program of the test guest: its drivers and mounts, and then what both guests have in common.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /tmp /root
mount -t tmpfs tmp /tmp
mount -t tmpfs shm /dev/shm
export PATH=/bin HOME=/root TERM=linux
while read -r module; do insmod "/lib/drivers/$module"; done </lib/drivers/order
. /lib/userland
