#!/bin/sh
# The first program of the full guest: its drivers, its disk as the root, what else the initrd brings (/local) copied there, and on
# with a program of Debian's.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/lib/drivers/$module"; done </lib/drivers/order
mount -t ext4 -o noatime /dev/vda /system
for folder in proc sys dev; do mount -o move "/$folder" "/system/$folder"; done
cp -r /local/. /system/usr/local/
exec switch_root /system /bin/sh /usr/local/lib/trustvisor/start
