#!/bin/busybox sh
# First process of a test kernel: mounts what the lab needs, runs the plan, and switches the machine off.
# Kernel messages go to the first serial port; this script and the tests speak on the second.
# Lines that begin with @@ are for the program that started the machine (transcript.rs reads them).
export PATH=/usr/sbin:/usr/bin:/busybox HOME=/tmp
/bin/busybox mkdir -p /busybox /proc /sys /dev /run /tmp
/bin/busybox --install -s /busybox
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
stty -F /dev/ttyS1 raw -echo
exec </dev/null >/dev/ttyS1 2>&1
mount -t bpf bpf /sys/fs/bpf || echo '@@ problem no bpffs'
echo "@@ kernel $(uname -r)"
. /lab/environment
# What systemd and a container runtime have loaded on any node.
for module in veth sch_ingress cls_bpf nf_conntrack; do
    modprobe -q "$module" || echo "@@ problem no module $module"
done
ip link set lo up

# The programs: the verifier's figures, or all it has to say.
/lab/bin/kernel_probe /lab/ipam-ebpf || echo "@@ problem the programs cannot be loaded"

while IFS='|' read -r group limit command; do
    echo "@@ begin $group"
    timeout -s KILL "$limit" sh -c "exec $command"
    echo "@@ end $group $?"
done </lab/plan
echo '@@ done'
sync
poweroff -f
