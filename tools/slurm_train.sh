#!/usr/bin/env bash
# Train on a Slurm cluster: GPUS=8 tools/slurm_train.sh PARTITION JOB_NAME CONFIG [OPTIONS]
# A job at its time limit requeues itself and resumes. On CPUs: GPUS=0 TASKS=4 tools/slurm_train.sh ...
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: [GPUS=8] [GPUS_PER_NODE=8] [TASKS=8] [TASKS_PER_NODE=8] [CPUS_PER_TASK=5]" \
         "[STOP_SECONDS=120] [MAX_ATTEMPTS=100] [SBATCH_ARGS=...]" \
         "$0 PARTITION JOB_NAME CONFIG [options of tools/train.py]" >&2
    exit 2
fi
if [ -n "${SRUN_ARGS:-}" ]; then
    echo "SRUN_ARGS: expected no value, got $SRUN_ARGS. $0 submits a batch job: use SBATCH_ARGS" >&2
    exit 2
fi
partition=$1 job=$2 config=$3 tools=$(dirname "$0")
shift 3
gpus=${GPUS:-1} seconds=${STOP_SECONDS:-120} gres=''
if [[ ! $gpus =~ ^[0-9]+$ ]]; then
    echo "GPUS: expected a number of GPUs, got $gpus. Use GPUS=0 to train on CPUs" >&2
    exit 2
fi
if ! command -v sbatch > /dev/null; then
    echo "sbatch: expected Slurm's command in PATH, got none. Run $0 on a machine of the cluster" >&2
    exit 2
fi
if [ "$gpus" -eq 0 ]; then
    tasks=${TASKS:-1}
else
    tasks=$gpus
fi
per_node=${TASKS_PER_NODE:-${GPUS_PER_NODE:-$((tasks < 8 ? tasks : 8))}}
[ "$gpus" -eq 0 ] || gres=--gres=gpu:$per_node
cpus=--cpus-per-task=${CPUS_PER_TASK:-5}  # since Slurm 22.05, srun ignores that of sbatch
# 143: exit code of a training stopped by SIGTERM.
# shellcheck disable=SC2086  # SBATCH_ARGS holds several words
exec sbatch -p "$partition" --job-name="$job" ${gres:+"$gres"} --ntasks="$tasks" \
    --ntasks-per-node="$per_node" "$cpus" --requeue --open-mode=append \
    --signal="B:USR1@$seconds" ${SBATCH_ARGS:-} \
    --wrap="exec bash $(printf '%q ' "$tools/slurm_job.sh" "$seconds" 143 srun "$cpus" \
        --kill-on-bad-exit=1 "${PYTHON:-python}" -u "$tools/train.py" "$config" \
        --launcher slurm "$@")"
