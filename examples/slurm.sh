#!/usr/bin/env bash
# Train on 2 nodes of 8 GPUs under SLURM, through time limits and pre-emption:
#
#   sbatch examples/slurm.sh rcp_llava.yaml
#
# Adapt the partition and the environment. Repair statistics and losses are those of the global
# micro-batch, so nodes and devices change the speed and not the objective, as long as
# devices x nodes x data.batch_size x accumulate_grad_batches stays what it was.

#SBATCH --job-name=rcp
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8        # one process per GPU: Lightning takes its ranks from SLURM
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8          # image decoding: data.num_workers of them at most
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300        # five minutes before the end, to this script
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail
config=${1:?name a configuration, as in: sbatch examples/slurm.sh rcp_llava.yaml}
source .venv/bin/activate

# --resume true makes the same command right for the first start and for every one after it.
# deepspeed_stage_2 shards optimiser and gradients of the plug-in, which are small: plain ddp does
# as well. deepspeed_stage_3 shards the frozen base, for one that does not fit on a GPU.
srun python train.py --config "$config" --resume true \
    --trainer.num_nodes "$SLURM_NNODES" --trainer.devices 8 \
    --trainer.strategy "${STRATEGY:-ddp}" --trainer.precision bf16-mixed &
step=$!

# SIGTERM lets training finish its batch, write last.ckpt and exit with 0; then back into the queue
trap 'kill -TERM $step; wait $step; scontrol requeue "$SLURM_JOB_ID"; exit 0' TERM
wait $step
