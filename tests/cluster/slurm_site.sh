#!/bin/bash
# A Slurm site of two nodes on one machine, for a test: each node has network, processes and /tmp/ray-root of its own.
#
# slurm_site.sh FOLDER     starts it and stays; needs root. Everything ends with this process. FOLDER gets the logs.
# slurm_site.sh FOLDER site|node1|node2     is how it calls itself, inside of the namespaces.
set -euo pipefail
folder=$1 role=${2:-outside}
export SLURM_CONF=$folder/slurm.conf

link() { # NAME ADDRESS
  ip link set lo up
  ip address add "$2/24" dev "$1"
  ip link set "$1" up
}

case $role in
outside)
  mkdir -p "$folder"/{state,spool} /tmp/ray-root /run/munge
  printf '127.0.0.1 localhost\n10.99.0.254 control\n10.99.0.1 node1\n10.99.0.2 node2\n' >"$folder/hosts"
  cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=control
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmdLogFile=$folder/slurmd.%n.log
SlurmdSpoolDir=$folder/spool/%n
StateSaveLocation=$folder/state
AuthInfo=cred_expire=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node[1-2] CPUs=1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE GraceTime=30 PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=2
END
  exec unshare --net --uts --pid --mount --fork --kill-child --mount-proc "$0" "$folder" site
  ;;
site)
  hostname control
  mount --bind "$folder/hosts" /etc/hosts
  ip link add bridge type bridge
  link bridge 10.99.0.254
  mount -t tmpfs -o mode=711,uid=munge tmpfs /run/munge
  (umask 077 && dd if=/dev/urandom of=/run/munge/key bs=128 count=1 status=none && chown munge /run/munge/key)
  runuser --user munge -- munged --foreground --force --key-file=/run/munge/key --seed-file=/run/munge/seed \
    --log-file=/run/munge/log &
  while [[ ! -S /run/munge/munge.socket.2 ]]; do sleep 0.2; done
  slurmctld -D &
  for i in 1 2; do
    unshare --net --uts --pid --mount --fork --kill-child --mount-proc "$0" "$folder" "node$i" &
    while [[ $(readlink "/proc/$!/ns/net") == $(readlink /proc/self/ns/net) ]]; do sleep 0.1; done
    ip link add "up$i" type veth peer name cable netns $!
    ip link set "up$i" master bridge up
  done
  wait
  ;;
node?)
  hostname "$role"
  while ! ip link show cable >/dev/null 2>&1; do sleep 0.2; done
  link cable "10.99.0.${role#node}"
  mount -t tmpfs tmpfs /tmp/ray-root
  slurmd -D -N "$role" # not by exec: this shell, process 1 of its namespace, collects the dead
  ;;
esac
