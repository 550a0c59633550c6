#!/bin/sh
# node.sh up|down n1|n2: a compute node of the test cluster: its own name, processes, /tmp and /scratch, the shared /home.
# Down is a power cut: all its processes die at once.
set -e
node=$2
case $1 in
up)
    # The outer process waits; killing it kills the node with all its processes. Later mounts on the login node appear
    # on the nodes too; mounts on a node stay there.
    setsid unshare --mount --propagation slave --pid --uts --fork --kill-child=KILL "$0" run "$node" >"/var/log/slurm/$node.out" 2>&1 </dev/null &
    echo $! >"/run/node-$node.pid"
    ;;
run)
    mount -t proc proc /proc
    mount -t tmpfs -o mode=1777,size=4g tmpfs /tmp
    mount -t tmpfs -o mode=1777,size=4g tmpfs /scratch
    hostname "$node"
    touch "/tmp/this-is-$node"
    rm -f "/run/slurmd-$node.pid"
    slurmd -N "$node" >/dev/null 2>&1 </dev/null
    while :; do
        sleep 3600 &
        wait
    done
    ;;
down)
    kill -9 "$(cat "/run/node-$node.pid")"
    ;;
esac
