#!/usr/bin/env bash
# Slurm: a Ray cluster for the length of one allocation, and raysweep on it. From the root of the checkout:
#   sbatch cluster/slurm.sh run sweeps/demo.yaml --store /shared/results/demo
# The checkout, its .venv (`make`) and the store are on a file system that all nodes share; the store may be on s3://...
# A requeued or repeated job continues from the ledger.
#SBATCH --job-name=raysweep
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --output=raysweep-%j.log
## and, where there are GPUs:  #SBATCH --gpus-per-node=4
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
export PATH="$PWD/.venv/bin:$PATH" RAY_USAGE_STATS_ENABLED=0

# The nodes are shared machines: whoever reaches Ray's ports runs code as you, so this job gets its own token.
umask 077
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.raysweep-token-$SLURM_JOB_ID"
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"

nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${nodes[0]}
ip=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | tr ' ' '\n' | grep -m1 -v -e '^127\.' -e ':')
port=$((20000 + SLURM_JOB_ID % 10000))          # two jobs on one node must not collide; Ray's workers use 10002-19999
cpus=${SLURM_CPUS_PER_TASK:-$(nproc)}
temporary=/tmp/ray-$SLURM_JOB_ID                # short: socket paths are limited to 107 bytes

steps=()
finish() {
  for step in "${steps[@]}"; do kill "$step" 2>/dev/null || true; done
  wait || true
  rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap finish EXIT
trap 'exit 143' TERM INT                        # scancel, or the end of the allocation

start() {                                       # NODE, then what `ray start` takes; --block holds the step
  local node=$1
  shift
  srun --nodes=1 --ntasks=1 --overlap -w "$node" env -u OMP_NUM_THREADS \
    ray start --num-cpus="$cpus" --disable-usage-stats --block "$@" &
  steps+=($!)
}
start "$head" --head --node-ip-address="$ip" --port="$port" --include-dashboard=false --temp-dir="$temporary"
for _ in $(seq 120); do
  srun --nodes=1 --ntasks=1 --overlap -w "$head" ray health-check --address "$ip:$port" 2>/dev/null && break
  sleep 1
done
for node in "${nodes[@]:1}"; do start "$node" --address="$ip:$port"; done

# Runs on the head, where the driver belongs; its exit code is the job's.
export RAY_ADDRESS="$ip:$port"
srun --nodes=1 --ntasks=1 --overlap -w "$head" \
  python cluster/submit.py --workers $((${#nodes[@]} - 1)) "$@"
