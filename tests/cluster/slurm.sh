#!/bin/bash
# A SLURM cluster of one node with two CPUs on this machine, as root: slurm.sh up FOLDER, slurm.sh down FOLDER.
# Needs Debian's slurm-wlm and munge. Daemons listen on ports of their own; nothing outside FOLDER is written. Then
#   export SLURM_CONF=FOLDER/slurm.conf
set -eu
command=$1 folder=$(realpath -m "$2")

up() {
  mkdir -p "$folder"/{state,spool,munge}
  chmod 755 "$folder"; chmod 700 "$folder/munge"
  head -c 1024 /dev/urandom > "$folder/munge/key"; chmod 400 "$folder/munge/key"
  munged --force --key-file="$folder/munge/key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
  host=$(hostname -s)
  cat > "$folder/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=${SLURM_TEST_PORT:-16817}
SlurmdPort=$((${SLURM_TEST_PORT:-16817} + 1))
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=60
UnkillableStepTimeout=600
MessageTimeout=60
SchedulerParameters=sched_interval=2,requeue_delay=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=60 State=UP OverTimeLimit=0
END
  export SLURM_CONF=$folder/slurm.conf
  slurmctld -i
  slurmd
  for _ in $(seq 60); do
    if sinfo -h -o %T 2> /dev/null | grep -q idle; then return; fi
    sleep 1
  done
  echo "the node did not become idle; see $folder/*.log" >&2
  return 1
}

# Processes of this cluster: its daemons and what their jobs started; no shell that merely has SLURM_CONF set.
members() {
  for process in /proc/[0-9]*; do
    environment=$(tr '\0' '\n' 2> /dev/null < "$process/environ") 2> /dev/null || continue
    grep -qx "SLURM_CONF=$folder/slurm.conf" <<< "$environment" || continue
    case $(cat "$process/comm" 2> /dev/null) in
      slurmctld | slurmd | slurmstepd) echo "${process#/proc/}" ;;
      *) if grep -q '^SLURM_JOB_ID=' <<< "$environment"; then echo "${process#/proc/}"; fi ;;
    esac
  done
}

down() {
  for signal in TERM TERM TERM TERM TERM KILL; do
    for name in slurmd slurmctld munged; do
      if [ -f "$folder/$name.pid" ]; then kill "$(cat "$folder/$name.pid")" 2> /dev/null || true; fi
    done
    left=$(members)
    if [ -z "$left" ] && ! kill -0 "$(cat "$folder/munged.pid" 2> /dev/null)" 2> /dev/null; then return; fi
    if [ -n "$left" ]; then kill "-$signal" $left 2> /dev/null || true; fi
    sleep 3
  done
}

"$command"
