# What the batch scripts have in common; they read it from the folder that the job was submitted from.
#
# Environment: IALCMS_PYTHON        the interpreter that has ialcms installed (default: .venv/bin/python, else python3)
#              IALCMS_IMAGE         an Apptainer image that all is run in (docs/containers.md), with its own python
#              IALCMS_MAX_CRASHES   starts after a crash before a job gives up (default: 3)

set -uo pipefail

starts=${SLURM_RESTART_COUNT:-0} # how often this job has been put back into the queue
job=$SLURM_JOB_ID
# The last task of an array has the array's own number: that would requeue them all.
[[ -z ${SLURM_ARRAY_TASK_ID:-} ]] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID

say() { echo "[$(date '+%F %T')] job $job, start $starts: $*"; }

# fail MESSAGE [EXIT CODE]
fail() {
  say "$1" >&2
  exit "${2:-1}"
}

inside=() # what comes before a command that runs in the image
if [[ -n ${IALCMS_IMAGE:-} ]]; then
  container=$(command -v apptainer || command -v singularity) \
    || fail "IALCMS_IMAGE is set and $HOSTNAME has neither apptainer nor singularity: load its module, or unset it" 2
  [[ -e $IALCMS_IMAGE ]] || fail "there is no image $IALCMS_IMAGE: build it (docs/containers.md) where all nodes see it" 2
  inside=("$container" exec --nv "$IALCMS_IMAGE")
  python=${IALCMS_PYTHON:-python}
else
  python=${IALCMS_PYTHON:-.venv/bin/python}
  [[ -n ${IALCMS_PYTHON:-} || -x $python ]] || python=python3
fi
# The launchers' package: launch in a checkout, ialcms.launch where ialcms was installed.
launch=$("${inside[@]}" "$python" -c '
from importlib.util import find_spec as find
found = next((name for name in ("ialcms.launch", "launch") if find("ialcms") and find("torch") and find(name)), "")
print(found, end="")
') && [[ -n $launch ]] \
  || fail "$python has no ialcms: run 'make install' in the project's folder, or name another one in IALCMS_PYTHON" 2

[[ -z ${SLURM_GPUS_PER_TASK:-} && ${SLURM_TRES_PER_TASK:-} != *gpu* ]] \
  || fail "ask for GPUs with --gpus-per-node instead of --gpus-per-task: one launcher a node starts the ranks" 2

# free_port   on this node, which is the first of the job's
free_port() {
  local port=$((10000 + (SLURM_JOB_ID * 16 + starts) % 20000)) # below those that the system gives away
  while (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
  echo "$port"
}

# exec_ranks VERB ARGUMENTS...   becomes the step that runs ialcms on all ranks of the job's nodes
exec_ranks() {
  local head options=()
  head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  if [[ ${SLURM_GPUS_ON_NODE:-0} -eq 0 ]]; then
    local tasks=${SLURM_NTASKS_PER_NODE:-}
    # --ntasks alone: SLURM has shared the tasks out, like 2(x3), or 2,1 where the nodes differ
    [[ -n $tasks || -z ${SLURM_NTASKS:-} ]] || tasks=${SLURM_TASKS_PER_NODE:-}
    if [[ $tasks == *,* ]]; then
      say "the nodes have $tasks tasks: one rank on each; for more ask with --ntasks-per-node"
      tasks=1
    fi
    tasks=${tasks%%(*}
    options=(--ranks "${tasks:-1}")
  fi
  # One launcher a node has all that the job has there, however the tasks were asked for.
  unset SLURM_NTASKS_PER_NODE SLURM_CPUS_PER_TASK SLURM_GPUS_PER_TASK SLURM_TRES_PER_TASK SLURM_NTASKS_PER_GPU
  exec srun --export=ALL --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpu-bind=none \
    --kill-on-bad-exit=1 --wait="$patience_s" "${inside[@]}" "$python" -m "$launch.ranks" "${options[@]}" --nodes "$SLURM_NNODES" \
    --head "$head:$(free_port)" --id "$SLURM_JOB_ID.$starts" --notes "$notes" --end-with-parent "$@"
}

# run_until_finished VERB ARGUMENTS...
#
# Runs the verb on all ranks and ends the job, or puts it back into the queue: after a stop always, after a crash a
# few times. The caller has set $folder, where notes can be written, $again, how a user resumes it by hand, $patience_s,
# how long nodes wait for the last one, and is_finished, which says whether all is done.
run_until_finished() {
  local records=$folder/slurm step watch code=0 state count
  notes=$records/$SLURM_JOB_ID.$starts             # what the launchers leave about this start
  local crashes=$records/$SLURM_JOB_ID.crashes.txt # a line for every start that crashed
  mkdir -p "$notes" || fail "cannot write to $folder: give another folder, or submit where you can write" 2

  trap 'say "time is nearly up: asking the ranks to stop"; touch "$notes/asked"; kill -USR1 $step 2>/dev/null' USR1
  trap : TERM # cancelled: SLURM has signalled the ranks, too
  # In the background and waited for: bash would run no trap while it waits for a command in the foreground.
  exec_ranks "$@" &
  step=$!
  # srun waits until the time limit for a node whose step daemon has died
  while sleep 5; do
    [[ -e $notes/crashed ]] && sleep 20 && say "ending the rest of the step" && kill -KILL $step
  done &
  watch=$!
  while kill -0 $step 2>/dev/null; do
    wait $step
    code=$?
  done
  kill $watch

  # srun returns the same for a stop, a rank's end and a node's loss. Files decide.
  if is_finished; then
    say "finished"
    exit 0
  fi
  if [[ -e $notes/refused ]]; then
    rm -r "$notes"
    rmdir --ignore-fail-on-non-empty "$records"
    [[ ! -d $records ]] && rmdir --ignore-fail-on-non-empty "$folder"
    fail "not started again: correct the input first" 2
  fi
  state=$(scontrol show job "$job" | grep -o 'JobState=[A-Z]*')
  [[ $state == JobState=RUNNING ]] || fail "ended by SLURM ($state); unless it is requeued, $again"
  if [[ ! -e $notes/crashed && (-e $notes/asked || -e $notes/stopped || -e $notes/ended) ]]; then
    say "stopped; back into the queue"
  else
    echo "start $starts on $SLURM_JOB_NODELIST: srun returned $code" >>"$crashes"
    count=$(wc -l <"$crashes")
    [[ $count -le ${IALCMS_MAX_CRASHES:-3} ]] || fail "crashed $count times, given up; $again"
    say "crashed (time $count of ${IALCMS_MAX_CRASHES:-3} before it gives up); back into the queue"
  fi
  trap - TERM
  scontrol requeue "$job" || fail "this job cannot be requeued; $again"
  sleep 120 # until SLURM ends this shell: a job that ends by itself is not requeued
  exit 1
}
