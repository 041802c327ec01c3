#!/usr/bin/env bash
# Run a suite as a Slurm job array: WORKERS=8 tools/slurm_suite.sh PARTITION JOB_NAME SUITE
# Each job of the array claims runs until none is left. The jobs share the folder of the suite, which
# all nodes must see, or a database: add --storage URL.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: [WORKERS=8] [GPUS=1] [CPUS_PER_TASK=5] [SBATCH_ARGS=...]" \
         "$0 PARTITION JOB_NAME SUITE [options of tools/suite.py run]" >&2
    exit 2
fi
partition=$1 job=$2 suite=$3
shift 3
gpus=${GPUS:-1}
# --signal: a job that nears its time limit releases its run, which another job then continues.
# shellcheck disable=SC2086  # SBATCH_ARGS holds several words
exec sbatch -p "$partition" --job-name="$job" --array="1-${WORKERS:-8}" --gres="gpu:$gpus" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --requeue --signal=B:TERM@60 ${SBATCH_ARGS:-} \
    --wrap="exec $(printf '%q ' "${PYTHON:-python}" -u "$(dirname "$0")/suite.py" run "$suite" \
        --processes "$gpus" "$@")"
