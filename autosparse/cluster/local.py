"""Jobs as processes of this machine, some at a time, each on GPUs of its own as long as there are enough."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit
import torch
from tqdm import tqdm

from autosparse.cluster import logs, outcome, record
from autosparse.cluster.job import Job, Task
from autosparse.cluster.outcome import Failure
from autosparse.cluster.resources import Resources
from autosparse.errors import UserError


def run(jobs: Sequence[Job], resources: Resources, root: Path, name: str) -> list[Failure]:
    """Run jobs to their end; one that fails does not keep the others from running.

    Args:
        jobs: those to run.
        resources: of each; `array_parallelism` of them run at once.
        root: folder of what submitit writes.
        name: shown while they run.
    """
    at_once = min(resources.array_parallelism or 1, len(jobs))
    gpus, there = resources.local_gpus(), _visible_gpus()
    logs.prune(root, "local", _Processes())
    waiting, free = list(jobs), list(range(at_once))
    running, runs = dict[int, tuple[Job, Any]](), dict[str, Path]()
    failures: list[Failure] = []
    with logs.claimed(root, name) as folder:
        executor = submitit.LocalExecutor(folder / "%j")
    with tqdm(total=len(jobs), desc=name, unit="run", disable=None) as bar:
        while waiting or running:
            while waiting and free:
                job, place = waiting.pop(0), free.pop(0)
                executor.update_parameters(
                    timeout_min=resources.minutes,
                    tasks_per_node=resources.tasks,
                    gpus_per_node=gpus,
                    visible_gpus=[there[(place * gpus + k) % len(there)] for k in range(gpus)],
                )
                handle = executor.submit(Task(job, resources.local_cpus(at_once)))
                running[place] = job, handle
                runs[handle.job_id] = job.folder
                logs.record(folder, "local", runs)
                record.write_submission(job.folder, None, str(handle.task(0).paths.stderr))
                outcome.say(f"started {job.folder}")
            for place, (job, handle) in list(running.items()):
                if handle.done():
                    del running[place]
                    free.append(place)
                    bar.update()
                    failures += outcome.failures([(job, handle.task(0).paths.stderr)])
            time.sleep(0.1)
    logs.prune(root, "local", _Processes())
    return failures


class _Processes:
    """The ids of all processes of this machine, which are the ids of submitit's local jobs."""

    def __contains__(self, job_id: object) -> bool:
        return Path(f"/proc/{job_id}").exists()


def _visible_gpus() -> list[int]:
    """The GPUs that this process may use, by the machine's numbers.

    Raises:
        UserError: CUDA_VISIBLE_DEVICES names them in another way.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not visible:
        return list(range(torch.cuda.device_count()))
    if not all(part.strip().isdecimal() for part in visible.split(",")):
        raise UserError(f"--cluster local takes CUDA_VISIBLE_DEVICES as numbers, such as 0,1, got {visible}")
    return [int(part) for part in visible.split(",")]
