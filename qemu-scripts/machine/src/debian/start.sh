# The full guest, on its own root: the mounts that programs expect, its network (QEMU's), and then what both guests have in common.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux
umask 022
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock /run/sshd
mount -t tmpfs tmp /tmp
ln -s /usr/local/lib/trustvisor/modules /modules
if [ -e /sys/class/net/eth0 ]; then busybox ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up; fi
. /usr/local/lib/trustvisor/userland
