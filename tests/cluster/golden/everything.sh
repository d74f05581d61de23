#!/bin/bash

# Parameters
#SBATCH --account=project-1234
#SBATCH --array=0-7%2
#SBATCH --constraint='a100|h100'
#SBATCH --cpus-per-task=6
#SBATCH --dependency=afterok:4242:4243_1
#SBATCH --error=/OUTPUT/logs/%A_%a/%A_%a_0_log.err
#SBATCH --exclude='gpu[3-4]'
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --job-name=irp
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mail-type=FAIL,END
#SBATCH --mem=64GB
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=/OUTPUT/logs/%A_%a/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=2160

# setup
module load cuda/12.4
[ $? -eq 0 ] || { echo 'setup failed: module load cuda/12.4' >&2; exit 1; }
export GREETING='it is "here"'
[ $? -eq 0 ] || { echo 'setup failed: export GREETING='"'"'it is "here"'"'"'' >&2; exit 1; }

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /OUTPUT/logs/%A_%a/%A_%a_%t_log.out --error /OUTPUT/logs/%A_%a/%A_%a_%t_log.err --cpus-per-task=6 --kill-on-bad-exit=1 PYTHON -ISc 'import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM}); work = '"'"'from autosparse.cluster.process import main; main()'"'"'; words = ['"'"'-c'"'"', work] if sys.argv[2:4] == ['"'"'-m'"'"', '"'"'submitit.core._submit'"'"'] else sys.argv[2:4]; os.execv(sys.executable, [sys.executable, sys.argv[1], *words, *sys.argv[4:]])' -u -m submitit.core._submit /OUTPUT/logs/%j
