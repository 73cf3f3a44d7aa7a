#!/usr/bin/env bash
# Train on several machines without a scheduler. Run the same command on each of them, with the
# address of one of them and its own number:
#
#   NODES=2 NODE=0 HEAD=10.0.0.1 examples/torchrun.sh rcp_llava.yaml     # on 10.0.0.1
#   NODES=2 NODE=1 HEAD=10.0.0.1 examples/torchrun.sh rcp_llava.yaml     # on the other
#
# On a single machine no launcher is needed: Lightning starts the processes itself,
#   python train.py --config rcp_llava.yaml --trainer.devices 8 --trainer.strategy ddp

set -euo pipefail
config=${1:?name a configuration, as in: examples/torchrun.sh rcp_llava.yaml}
gpus=${GPUS:-8}

# a process that dies ends all; torchrun starts them again, and --resume true goes on from last.ckpt
exec torchrun --nnodes "${NODES:-1}" --node-rank "${NODE:-0}" --nproc-per-node "$gpus" \
    --master-addr "${HEAD:-localhost}" --master-port "${PORT:-29500}" --max-restarts 3 \
    train.py --config "$config" --resume true \
    --trainer.num_nodes "${NODES:-1}" --trainer.devices "$gpus" \
    --trainer.strategy "${STRATEGY:-ddp}" --trainer.precision bf16-mixed
