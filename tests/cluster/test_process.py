"""The processes of a job find each other and form a group."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from submitit.core.utils import DelayedSubmission

JOB = f"{os.getpid()}_7"
SCRIPT = """
import sys
import torch
from accelerate.utils import gather_object
from autosparse.cluster import process
accelerator = process.start(1)
assert torch.tensor(1e-40).mul(1.0) == 0  # denormal numbers are flushed
assert accelerator.mixed_precision == "no" and accelerator.gradient_accumulation_steps == 1
ranks = gather_object([accelerator.process_index])
sys.stdout.write(f"{ranks}\\n")  # one write: print() makes two, and processes that share a pipe mix them
process.finish(accelerator)
"""


def world(folder: Path) -> list[str]:
    """Return the output of each of the two processes of one job, started as by Slurm and submitit."""
    job, task = JOB.split("_")
    processes = []
    for rank in range(2):
        given = {"JOB_ID": job, "ARRAY_JOB_ID": job, "ARRAY_TASK_ID": task, "NTASKS": 2, "JOB_NUM_NODES": 1}
        given |= {"PROCID": rank, "LOCALID": rank, "NODEID": 0, "RESTART_COUNT": 1}
        environment = os.environ | {f"SLURM_{name}": str(value) for name, value in given.items()}
        environment |= {"SUBMITIT_EXECUTOR": "slurm", "SUBMITIT_FOLDER": str(folder)}
        command = [sys.executable, "-c", SCRIPT]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = [process.communicate() for process in processes]
    return [output.strip() or errors[-800:] for output, errors in said]


def test_tasks_of_a_job_form_a_group_and_remove_what_a_killed_attempt_left(tmp_path: Path) -> None:
    left = tmp_path / f"{JOB}_0_result.pkl.save_tmp"
    left.touch()
    assert world(tmp_path) == ["[0, 1]"] * 2
    assert not left.exists()


@pytest.mark.parametrize("fails", [False, True])
def test_process_ends_although_a_thread_is_alive(fails: bool, tmp_path: Path) -> None:
    def work() -> None:
        import threading
        import time

        threading.Thread(target=time.sleep, args=(600,)).start()
        if fails:
            raise ZeroDivisionError("a bug")

    DelayedSubmission(work).dump(tmp_path / "4242_submitted.pkl")
    environment = os.environ | {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "4242", "SLURM_PROCID": "0"}
    command = [sys.executable, "-c", "from autosparse.cluster.process import main; main()", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == fails
    assert ("ZeroDivisionError: a bug" in done.stderr) == fails
    assert (tmp_path / "4242_0_result.pkl").exists()


STALE = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "nowhere.invalid", "MASTER_PORT": "29500"}


@pytest.mark.parametrize("shell", [{}, {"SLURM_JOB_ID": "1", "SLURM_STEP_NUM_TASKS": "1"}])
def test_stale_environment_and_configuration_of_accelerate_are_ignored(shell: dict[str, str]) -> None:
    asked = {"MIXED_PRECISION": "bf16", "GRADIENT_ACCUMULATION_STEPS": "4", "USE_FSDP": "true", "USE_DEEPSPEED": "true"}
    environment = os.environ | STALE | shell | {f"ACCELERATE_{name}": value for name, value in asked.items()}
    command = [sys.executable, "-c", SCRIPT]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert said.stdout.strip() == "[0]", said.stderr


def test_torchrun_makes_a_group(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    said = subprocess.run([*command, tmp_path / "script.py"], capture_output=True, text=True, timeout=100)
    assert said.stdout.split("\n")[:2] == ["[0, 1]"] * 2
