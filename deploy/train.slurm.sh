#!/bin/bash
# Trains with one process per machine: sbatch deploy/train.slurm.sh WORKDIR [FLAGS OF train, such as --config bsr]
# All of them see the folder. A job that is stopped early goes back into the queue and continues.
#SBATCH --job-name=diffbir-train
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
#SBATCH --output=train-%j.log
set -euo pipefail

workdir=${1:?the work folder}
shift
# jax.distributed finds its peers by SLURM's variables. SIGTERM, five minutes before the end, saves and exits with 0.
srun --kill-on-bad-exit=1 diffbir train --distributed --workdir "$workdir" "$@"
# The last thing a finished run writes.
[ -d "$workdir/export" ] || scontrol requeue "$SLURM_JOB_ID"
