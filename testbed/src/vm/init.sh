#!/bin/busybox sh
# First process of a machine of `testbed vm`: brings up what the kernel lacks,
# says on the console how far it is, and leaves the rest to the agents.
# The kernel hands its arguments on as environment variables: VM_NODE (1, 2,
# ...), VM_ADDRESS, VM_MTU, VM_SHARE.

export PATH=/bin:/usr/bin HOME=/root
/bin/busybox mkdir -p /bin /proc /sys /dev /tmp /run /root /share
/bin/busybox --install -s /bin

say() { echo "splitkernel-vm: $*" >/dev/console; }
fail() { say "failed: $*"; console; }

# A shell on the console, for ever: whoever looks in with `testbed vm console`
# finds it.
console() {
    while :; do
        setsid cttyhack sh </dev/console >/dev/console 2>&1
        sleep 1
    done
}

# Runs a command that must succeed; its last words go into the message.
must() {
    said=$("$@" 2>&1) || fail "$*: $(echo "$said" | tail -n 1)"
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp

say modules
while read -r module; do
    must insmod "/modules/$module.ko"
done </modules/order

say network
hostname "node$VM_NODE"
must ip link set lo up
must ip link set eth0 mtu "$VM_MTU"
must ip addr add "$VM_ADDRESS/24" dev eth0
must ip link set eth0 up

say rxe
# Registered memory is locked memory.
ulimit -l unlimited
ulimit -n 65536
must rdma link add rxe0 type rxe netdev eth0

say files
must mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose binaries /opt/splitkernel
if [ -n "$VM_SHARE" ]; then
    must mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,access=client share /share
fi

# One agent serves the testbed, the other `testbed vm exec`.
for name in /sys/class/virtio-ports/*/name; do
    port=/dev/$(basename "$(dirname "$name")")
    what=$(cat "$name")
    (
        while :; do
            /opt/splitkernel/testbed agent --device "$port" --binaries /opt/splitkernel \
                2>>"/tmp/$what.log"
            sleep 1
        done
    ) &
done
say ready
console
