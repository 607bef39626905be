#!/bin/busybox sh
# What a machine does when its kernel is up. Each step is said on the console,
# where testbed reads it.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
export LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts /tmp /run /root /var
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
export HOME=/root

step() { echo "splitkernel: $*"; }
fail() { step "failed: $*"; sync; poweroff -f; }
# What follows NAME= on the kernel's command line.
value() { sed -n "s/.*splitkernel\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }

step modules
while read -r module; do
    insmod "/lib/modules/$module.ko" || fail "the module $module cannot be loaded"
done </lib/modules/order
ulimit -l unlimited
ulimit -n 65536
echo 1 >/proc/sys/vm/unprivileged_userfaultfd

step network
hostname "$(value node)"
ip link set lo up
ip addr add "$(value address)" dev eth0 || fail "there is no network device eth0"
# Frames that hold 4096 bytes of RDMA's payload.
ip link set eth0 mtu 4500 up

step rxe
rdma link add rxe0 type rxe netdev eth0 || fail "rdma_rxe gives no device"

if [ -n "$(value share)" ]; then
    step files
    mkdir -p /share
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,access=any share /share ||
        fail "the shared directory cannot be mounted"
fi

# One agent for the testbed, one for `testbed vm exec`.
serve() {
    for port in /sys/class/virtio-ports/*; do
        [ "$(cat "$port/name")" = "$1" ] || continue
        while :; do
            testbed agent --device "/dev/${port##*/}" --binaries /bin
            sleep 1
        done &
        return 0
    done
    fail "there is no port $1"
}
serve agent
serve exec

step ready
while :; do sleep 3600; done
