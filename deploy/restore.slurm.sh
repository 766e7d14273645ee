#!/bin/bash
# Restores a folder on several machines: sbatch deploy/restore.slurm.sh PHOTOS RESULTS [FLAGS OF restore]
# All of them see both folders. The same command again restores what is missing.
#SBATCH --job-name=diffbir-restore
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --gpus-per-task=1
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --output=restore-%A_%a.log
set -euo pipefail

photos=${1:?the folder of photos}
results=${2:?the folder for results}
shift 2
# srun passes SIGTERM on, two minutes before the end: ready results are written.
exec srun diffbir restore "$photos" --output "$results" --skip-existing --report "$results/report.json" \
    --hosts "$SLURM_ARRAY_TASK_COUNT" --host-index "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))" "$@"
