#!/bin/bash

# Parameters
#SBATCH --array=0-2%3
#SBATCH --cpus-per-task=4
#SBATCH --error=/OUTPUT/logs/%A_%a/%A_%a_0_log.err
#SBATCH --gpus-per-node=1
#SBATCH --job-name=irp
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/OUTPUT/logs/%A_%a/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=90

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /OUTPUT/logs/%A_%a/%A_%a_%t_log.out --error /OUTPUT/logs/%A_%a/%A_%a_%t_log.err --cpus-per-task=4 --kill-on-bad-exit=1 PYTHON -ISc 'import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM}); work = '"'"'from autosparse.cluster.process import main; main()'"'"'; words = ['"'"'-c'"'"', work] if sys.argv[2:4] == ['"'"'-m'"'"', '"'"'submitit.core._submit'"'"'] else sys.argv[2:4]; os.execv(sys.executable, [sys.executable, sys.argv[1], *words, *sys.argv[4:]])' -u -m submitit.core._submit /OUTPUT/logs/%j
