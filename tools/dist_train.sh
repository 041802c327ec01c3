#!/usr/bin/env bash
# Train with several processes on one machine: tools/dist_train.sh CONFIG PROCESSES [OPTIONS]
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: [MAX_RESTARTS=0] [MMKDML_MALLOC=...] [MASTER_PORT=...] [NNODES=1 NODE_RANK=0 MASTER_ADDR=...]" \
         "$0 CONFIG PROCESSES [options of tools/train.py]" >&2
    exit 2
fi
config=$1 processes=$2
shift 2
if [ "${NNODES:-1}" -eq 1 ] && [ -z "${MASTER_PORT:-}" ]; then
    meeting=(--standalone)  # on a free port
else
    meeting=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}"
        --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${MASTER_PORT:-29500}")
fi
if [ -n "${MMKDML_MALLOC:-}" ]; then
    if [ ! -f "$MMKDML_MALLOC" ]; then
        echo "MMKDML_MALLOC: expected the file of an allocator, such as libtcmalloc_minimal.so.4, got" \
             "$MMKDML_MALLOC. Install it on this machine, or unset the variable" >&2
        exit 2
    fi
    export LD_PRELOAD=$MMKDML_MALLOC${LD_PRELOAD:+:$LD_PRELOAD}
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${meeting[@]}" \
    --max_restarts="${MAX_RESTARTS:-0}" --nproc_per_node="$processes" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
