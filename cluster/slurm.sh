#!/bin/bash
# sbatch cluster/slurm.sh run cifar10 --store /shared/runs/cifar10
#
# Starts Ray on every node of the job, runs `fusiondistill` with these arguments on the first one, and stops Ray. Options
# of sbatch go before the script: sbatch --nodes=4 --gpus-per-node=4 cluster/slurm.sh ...  `fusiondistill` has to be in the
# PATH of the user who submits, installed in a folder that all nodes share; the store has to lie in such a folder too.
#
# Preempted, or at the end of its time, the run stops at a safe point and the job is put back into the queue, where it goes
# on from what is stored.

#SBATCH --job-name=fusiondistill
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
#SBATCH --output=fusiondistill-%j.log

set -uo pipefail
INTERRUPTED=75 # fusiondistill's own: start me again

# A token for this job alone; srun hands the environment to all its nodes.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
head=${HEAD_IP:-$(hostname -I | cut -d ' ' -f 1)} # this script runs on the first node
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_ADDRESS=$head:$((20000 + SLURM_JOB_ID % 10000))
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
export RAY_gcs_rpc_server_reconnect_timeout_s=20 # nodes leave soon after the head

notes=$(mktemp -d) # the driver's process id and exit code; this script runs on the same node
# Only the first node's words are shown; the others' are in /tmp/ray-USER/session_latest/logs there.
# The one task of a node has all its CPUs, of which nodes may have more or fewer.
# shellcheck disable=SC2016  # $0, $@, $! and a node's CPUs are for the inner shells
srun --kill-on-bad-exit=0 --cpu-bind=none --output=0 --error=0 \
  bash -c 'exec ray symmetric-run --num-cpus "${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" "$@"' node \
  --address "$RAY_ADDRESS" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --dashboard-host 127.0.0.1 --temp-dir "/tmp/ray-$(id -un)" \
  -- bash -c 'trap "" TERM; fusiondistill "$@" & echo $! >"$0/driver"; wait $!; echo $? >"$0/status"' "$notes" "$@" &
step=$!

# SIGTERM goes to the driver alone: Ray has to outlive it, so that it can stop in order.
caught=0
# shellcheck disable=SC2317,SC2329  # called by the trap
stop() {
  caught=1
  if [[ -s $notes/driver ]]; then kill -TERM "$(<"$notes/driver")" 2>/dev/null; else kill -TERM "$step"; fi
}
trap stop TERM

while true; do
  wait "$step"
  status=$?
  ((caught)) || break
  caught=0 # the wait was cut short: go on with it
done
trap - TERM
if [[ -s $notes/status ]]; then
  status=$(<"$notes/status") # what comes after it, the end of Ray, does not count
elif ((status == 0)); then
  status=1 # of a Ray that does not start, symmetric-run makes nothing
  echo "Ray did not start, and nothing ran: see the lines above" >&2
fi
rm -r "$notes"

# Not if somebody cancelled the job, nor if Slurm puts it back into the queue by itself.
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
if ((status == INTERRUPTED || status == 128 + 15)) && [[ $state == RUNNING ]]; then
  echo "interrupted: job $SLURM_JOB_ID goes back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
  sleep 60 # Slurm ends this script
fi
exit "$status"
