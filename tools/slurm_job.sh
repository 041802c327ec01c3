#!/usr/bin/env bash
# Run a command in a Slurm batch job; near the time limit, stop it and requeue the job.
# tools/slurm_train.sh and tools/slurm_suite.sh submit it. `sbatch --signal=B:USR1@SECONDS`
# announces the time limit, so that it differs from scancel and preemption (SIGTERM).
set -uo pipefail
{  # Bash reads the whole block first, so that the file may change while a job runs.
if [ $# -lt 3 ]; then
    echo "usage: $0 SECONDS EXIT_CODE COMMAND...   # EXIT_CODE: code of a stopped command" >&2
    exit 2
fi
if [ -n "${MMKDML_MALLOC:-}" ]; then
    if [ ! -f "$MMKDML_MALLOC" ]; then
        echo "MMKDML_MALLOC: expected the file of an allocator, such as libtcmalloc_minimal.so.4, got" \
             "$MMKDML_MALLOC. Install it on this machine, or unset the variable" >&2
        exit 2
    fi
    export LD_PRELOAD=$MMKDML_MALLOC${LD_PRELOAD:+:$LD_PRELOAD}
fi
# With the id of an array, all jobs of the array would be requeued.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID} attempts=$((${SLURM_RESTART_COUNT:-0} + 1))
seconds=$1 stopped=$2 command='' is_near='' is_late='' is_sent='' is_trapped=1
shift 2

stop() {
    is_near=1 is_trapped=1
    if [ -z "$command" ] || [ -n "$is_sent" ]; then  # before the command, or twice
        return
    fi
    is_sent=1
    # In the remaining time, Slurm can kill what does not stop.
    (sleep $((seconds * 2 / 3)) && kill -ALRM $$ 2> /dev/null) &
    if [ "$1" = srun ]; then  # SIGTERM to srun would kill its tasks
        scancel --signal=TERM "$job"
    else
        kill -TERM "$command"
    fi
}
trap 'stop "$1"' USR1
trap 'is_late=1' ALRM
trap : TERM  # an ignored signal would be ignored by the command, too
"$@" &
command=$!
[ -z "$is_near" ] || stop "$1"
trap '' TERM  # scancel and preemption signal the command, whose exit code counts
while [ -n "$is_trapped" ] && [ -z "$is_late" ]; do
    is_trapped=''
    wait "$command"
    code=$?
done
case $code in
    "$stopped" | 143) is_stopped=1 ;;  # 143: SIGTERM before the command could handle it
    *) is_stopped=$is_late ;;
esac
if [ -z "$is_near" ] || [ -z "$is_stopped" ]; then
    exit "$code"
fi
if [ "$attempts" -ge "${MAX_ATTEMPTS:-100}" ]; then
    echo "attempts of job $job: expected an end within ${MAX_ATTEMPTS:-100} attempts (MAX_ATTEMPTS)," \
         "got the time limit of attempt $attempts. Submit the job again with a longer --time" >&2
    exit 1
fi
echo "time limit of attempt $attempts: requeueing job $job"
scontrol requeue "$job" || exit 1
exit "$code"
}
