#!/usr/bin/env bash
# Run a suite as a Slurm job array: WORKERS=8 tools/slurm_suite.sh PARTITION JOB_NAME SUITE
# Each job of the array claims runs until none is left. The jobs share the folder of the suite, which
# all nodes must see, or a database: add --storage URL. A job at its time limit requeues itself.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: [WORKERS=8] [GPUS=1] [CPUS_PER_TASK=5] [STOP_SECONDS=120] [MAX_ATTEMPTS=100]" \
         "[SBATCH_ARGS=...] $0 PARTITION JOB_NAME SUITE [options of tools/suite.py run]" >&2
    exit 2
fi
partition=$1 job=$2 suite=$3 tools=$(dirname "$0")
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
[ "$gpus" -eq 0 ] || gres=--gres=gpu:$gpus
# 1: exit code of a suite that was stopped.
# shellcheck disable=SC2086  # SBATCH_ARGS holds several words
exec sbatch -p "$partition" --job-name="$job" --array="1-${WORKERS:-8}" ${gres:+"$gres"} \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --requeue --open-mode=append \
    --signal="B:USR1@$seconds" ${SBATCH_ARGS:-} \
    --wrap="exec bash $(printf '%q ' "$tools/slurm_job.sh" "$seconds" 1 "${PYTHON:-python}" -u \
        "$tools/suite.py" run "$suite" --processes "$((gpus > 0 ? gpus : 1))" "$@")"
