# What the batch scripts have in common; they read it from the folder that the job was submitted from.
#
# Environment: IALCMS_PYTHON   the interpreter that has ialcms installed (default: .venv/bin/python, else python3)

set -uo pipefail

starts=${SLURM_RESTART_COUNT:-0} # how often this job has been put back into the queue

say() { echo "[$(date '+%F %T')] job $SLURM_JOB_ID, start $starts: $*"; }

# fail MESSAGE [EXIT CODE]
fail() {
  say "$1" >&2
  exit "${2:-1}"
}

python=${IALCMS_PYTHON:-.venv/bin/python}
[[ -n ${IALCMS_PYTHON:-} || -x $python ]] || python=python3
"$python" -c 'import sys, importlib.util as i; sys.exit(not all(map(i.find_spec, ("ialcms", "launch", "torch"))))' \
  || fail "$python has no ialcms: run 'make install' in the project's folder, or name another one in IALCMS_PYTHON" 2

# exec_workers [--notes DIR] VERB ARGUMENTS...   becomes the step that runs ialcms on all workers of the job's nodes
exec_workers() {
  local head port own=()
  head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  port=$((10000 + (SLURM_JOB_ID + starts) % 20000))
  [[ ${SLURM_GPUS_ON_NODE:-0} -gt 0 ]] || own=(--workers "${SLURM_NTASKS_PER_NODE:-1}")
  # One launcher a node has all that the job has there, however the tasks were asked for.
  unset SLURM_NTASKS_PER_NODE SLURM_CPUS_PER_TASK SLURM_GPUS_PER_TASK
  exec srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=1 --wait=60 \
    "$python" -m launch.workers "${own[@]}" --nodes "$SLURM_NNODES" --head "$head:$port" --id "$SLURM_JOB_ID.$starts" "$@"
}
