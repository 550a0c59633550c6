#!/bin/sh
# Process 1 of the test cluster: becomes the login node, starts SLURM's controller and both nodes, reaps dead processes.
# cluster.py starts it in new namespaces, so everything here ends with it. $1: the cluster's folder.
set -e
folder=$1

root=$folder/root
mkdir -p "$root" "$folder/upper" "$folder/work" "$folder/home"
mount -t overlay talkies-testcluster -o "lowerdir=$folder/base,upperdir=$folder/upper,workdir=$folder/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty fuse; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device" 2>/dev/null || rm "$root/dev/$device"
done
# On the host, often only root may use /dev/fuse. Apptainer needs it as an ordinary user.
umount "$root/dev/fuse" 2>/dev/null && rm -f "$root/dev/fuse"
mknod -m 666 "$root/dev/fuse" c 10 229
for number in 0 1; do mknod -m 666 "$root/dev/fakegpu$number" c 1 3; done
mkdir -p "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -sfn pts/ptmx "$root/dev/ptmx"
ln -sfn /proc/self/fd "$root/dev/fd"
ln -sfn fd/0 "$root/dev/stdin"
ln -sfn fd/1 "$root/dev/stdout"
ln -sfn fd/2 "$root/dev/stderr"
mount --bind "$folder/home" "$root/home"
while read -r path; do
    if test -d "$path"; then mkdir -p "$root$path"; else mkdir -p "$root${path%/*}" && touch "$root$path"; fi
    mount --rbind "$path" "$root$path"
    mount -o remount,ro,bind "$root$path"
done <"$folder/binds"

cd "$root"
mkdir -p .host
pivot_root . .host
umount -l /.host && rmdir /.host
mount --make-rshared /
hostname login
mkdir -p /run/munge /var/log/munge /var/lib/munge /var/spool/slurmctld /var/log/slurm /scratch
chown -R munge: /run/munge /var/log/munge /var/lib/munge /etc/munge
chmod 755 /run/munge
chmod 1777 /tmp /scratch
if test -f /etc/testcluster/cgroups; then
    mkdir -p /run/cgroup
    mount -t tmpfs -o mode=755 tmpfs /run/cgroup
    while read -r own place; do
        mkdir "$place"
        mount --bind "$own" "$place"
    done </etc/testcluster/cgroups
fi
# Daemons that inherited the starter's output would keep its pipe open.
setpriv --reuid munge --regid munge --clear-groups munged >/dev/null 2>&1 </dev/null
if test -f /etc/testcluster/accounts; then
    mkdir -p /run/mysqld && chown mysql: /run/mysqld
    # This cluster's own database, without network, whatever the packages of the base have set up.
    mariadb-install-db --user=mysql --datadir=/var/lib/accounts --skip-test-db >/var/log/mariadb.log 2>&1
    setsid mariadbd --no-defaults --user=mysql --datadir=/var/lib/accounts --socket=/run/mysqld/mysqld.sock \
        --skip-networking --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 >>/var/log/mariadb.log 2>&1 </dev/null &
    wait_for() { for _ in $(seq 150); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done; "$@"; }
    wait_for mariadb-admin --no-defaults --socket=/run/mysqld/mysqld.sock ping
    LD_LIBRARY_PATH=$(echo /opt/libmariadb/usr/lib/*-linux-gnu) setsid slurmdbd >/dev/null 2>&1 </dev/null
    wait_for sacctmgr --immediate list cluster
    while read -r line; do
        test -z "$line" || sacctmgr --immediate --quiet $line
    done </etc/testcluster/accounts
fi
slurmctld >/dev/null 2>&1 </dev/null
for node in n1 n2; do /etc/testcluster/node.sh up "$node"; done
touch /run/testcluster-up
while :; do
    sleep 3600 &
    wait
done
