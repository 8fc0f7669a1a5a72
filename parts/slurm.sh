#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=8
#SBATCH --exclusive --mem=0 --cpus-per-task=64
# Online SML on two nodes: sbatch parts/slurm.sh, in the folder of the kit. The last line is what they run.
. .venv/bin/activate
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --cpus-per-task=64 --kill-on-bad-exit=1 torchrun --nnodes 2 --nproc-per-node 8 \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:29500" --rdzv-id "$SLURM_JOB_ID" \
    grpo.py --model google/gemma-3-12b-it --lora 32 --problems omni-math/train --out /shared/runs/mt-rl
