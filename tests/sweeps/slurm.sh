#!/bin/bash
# slurm.sh start FOLDER PORT: a SLURM of this machine in FOLDER, on loopback: slurmctld, and two nodes, whose cores need not exist.
# It has no accounting, and no keys: any user of this machine may use it. slurm.sh stop FOLDER ends it. Needs root; Debian's slurmctld and slurmd.
set -euo pipefail
FOLDER=$2
export SLURM_CONF=$FOLDER/slurm.conf

stop() {
    timeout 10 scancel --me || true
    for file in "$FOLDER"/pids/*; do
        pid=$(cat "$file")
        kill "$pid" || true
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
    done
}
[ "$1" = stop ] && { stop; exit; }

mkdir -p "$FOLDER"/{ctld,pids,n1,n2}
HOST=$(hostname -s)
cat > "$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$3
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$FOLDER/ctld
SlurmdSpoolDir=$FOLDER/%n
SlurmctldPidFile=$FOLDER/pids/slurmctld
SlurmdPidFile=$FOLDER/pids/%n
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdLogFile=$FOLDER/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
SchedulerParameters=sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
NodeName=DEFAULT Sockets=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=16000
NodeName=n1 NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$(($3 + 1))
NodeName=n2 NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$(($3 + 2))
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PreemptMode=OFF PriorityTier=2
PartitionName=scavenge Nodes=ALL MaxTime=INFINITE PreemptMode=CANCEL PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PreemptMode=OFF PriorityTier=9
END
echo CgroupAutomount=no > "$FOLDER/cgroup.conf"
slurmctld
slurmd -N n1
slurmd -N n2
for _ in $(seq 100); do
    [ "$(sinfo -h -p main -N -o %t 2>/dev/null | grep -c idle)" = 2 ] && exit
    sleep 0.2
done
cat "$FOLDER"/*.log >&2
exit 1
