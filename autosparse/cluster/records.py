"""Records of a run, by which it can be followed and repeated: configuration, environment, submission, status, progress.

RUN/
  config.yaml       identity and options of the run
  environment.json  command, commit, versions and machine; code.diff: changes since that commit
  job.json          the command that asked for the run, and its job; batch.sh: the script of a job of Slurm
  status.json       state of the run, and the job that last worked on it
  progress.json     steps done, and the time left
"""

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

import autosparse
from autosparse import options
from autosparse.cluster.job import Job
from autosparse.errors import UserError
from autosparse.files import read_record, replacing, write_json, write_record, write_text
from autosparse.metrics import described
from autosparse.registry import content_of

_PACKAGES = ("torch", "torchvision", "accelerate", "numpy", "zarr", "numcodecs", "submitit", "safetensors")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # The C loader is ten times as fast.
_END = "\n...\n"  # ends a document of YAML
FILES = "files"
"""Section of `config.yaml` that names the copies of the user's files, which ran, and the originals."""
PROGRESS = "progress.json"
_INTERVAL = 5.0  # seconds between two writings of it
_RECORDS = {
    *("config.yaml", "environment.json", "code.diff", "status.json", PROGRESS, "job.json"),
    *("batch.sh", "logs"),
}


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that influence the results of a run."""
    # A checkout need not be installed.
    python = {"python": platform.python_version(), "autosparse": autosparse.__version__}
    return python | {name: importlib.metadata.version(name) for name in _PACKAGES}


def git_commit() -> str | None:
    """Return the commit of the code that runs, with `+` if the package differs from it; None outside a checkout."""
    ours = _git("ls-files", "--error-unmatch", __file__)  # A virtual environment may be inside another repository.
    commit = ours and _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", autosparse.__path__[0])
    return commit and commit.strip() + ("+" if changes else "")


def write_config(job: Job) -> None:
    """Write `config.yaml`, the job's identity and options, and copies of the user's files; raise if data are missing.

    Files of a run that has output are not replaced: `config_difference` says whether they differ.
    """
    if absent := job.absent():
        raise UserError(absent)
    path = job.folder / "config.yaml"
    if not _has_output(job) or not path.is_file():
        for source in job.sources():
            with replacing(path.parent / source.name) as temporary:
                temporary.write_bytes(content_of(source))
        sections = {FILES: {source.name: str(source) for source in job.sources()}, options.SECTION: job.options()}
        config = {**job.identity(), **{name: section for name, section in sections.items() if section}}
        write_text(path, yaml.safe_dump(config, sort_keys=False, explicit_end=True))


def config_difference(job: Job, submitted: dict[str, Any] | None = None) -> str | None:
    """Return how the configuration of the run in the job's folder differs from the job's; None if it does not.

    A run that failed before it had any output has no configuration. Keys that depend on the data are compared only on a
    machine that has the data.

    Args:
        job: job that is asked for.
        submitted: configuration of the job in the queue. Default: that of the folder.
    """
    folder = job.folder
    if submitted is None and not ((folder / "config.yaml").is_file() and _has_output(job)):
        return None
    old, new = read_config(folder) if submitted is None else submitted, job.identity()
    old_keys = [] if job.absent() else [key for key in old if key not in (FILES, options.SECTION)]
    for key in [*new, *old_keys]:
        if old.get(key) != new.get(key):
            difference = _difference(key, old, new)
            return f"{folder} is a run with {difference}; choose another output folder or delete it"
    return None


def _difference(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return how two configurations differ in a key, or in the first key below it that differs."""
    one, other = old.get(key), new.get(key)
    if isinstance(one, dict) and isinstance(other, dict):
        return _difference(next(name for name in {**one, **other} if one.get(name) != other.get(name)), one, other)
    if key in ("code", "network_code", "criterion_code"):
        return f"another file of the {key.rpartition('_')[0] or 'task'}, of which a copy is in its folder"
    return f"{key} = {one}, asked for is {other}"


def _has_output(job: Job) -> bool:
    """Return True if a run's folder holds more than the records and copies that every run starts with."""
    if not job.folder.is_dir():
        return False
    records = _RECORDS | {source.name for source in job.sources()}
    return any(path.name not in records and not path.name.startswith(".") for path in job.folder.iterdir())


def read_config(folder: Path) -> dict[str, Any]:
    """Return the `config.yaml` of a run; raise if it is damaged."""
    path = folder / "config.yaml"
    try:
        text = path.read_text()
        config = yaml.load(text, _LOADER) if text.endswith(_END) else None  # A part of a file may be valid YAML, too.
    except (yaml.YAMLError, UnicodeDecodeError):
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged; delete this file alone and give the very command that the run was made by")
    return config


def write_environment(folder: Path, job_id: str | None) -> None:
    """Write `environment.json` (command, commit, versions, hardware, job ids) and `code.diff`."""
    import torch  # Looking at runs must not import it.

    path, commit = folder / "environment.json", git_commit()
    jobs = read_record(path).get("jobs", [])
    write_json(
        path,
        {
            "command": sys.argv,
            "commit": commit,
            "versions": versions(),
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
            "jobs": jobs + [job_id] * (job_id is not None),
        },
    )
    if commit and (diff := _git("diff", "HEAD")):
        write_text(folder / "code.diff", diff)


def write_submission(job: Job, job_id: str | None, log: Path | None, runs: int = 1) -> None:
    """Write `job.json`: the command that asks for the run, its configuration, and the log of its process.

    On Slurm also the job's id and how many runs it may have.
    """
    submission = {"command": sys.argv, "folder": str(Path.cwd()), "job": job_id, "log": log and str(log), "runs": runs}
    write_json(job.folder / "job.json", {**submission, "config": None if job.missing() else job.identity()})


def job_of(folder: Path) -> str | None:
    """Return the Slurm job that a run was submitted as or, where that record is lost, that last worked on it."""
    submitted, worked = (read_record(folder / name) for name in ("job.json", "status.json"))
    return submitted.get("job", worked.get("job"))


def write_status(folder: Path, state: str, job_id: str | None, **more: Any) -> None:
    """Write `status.json`, unless the disk is full: the state of the run, and the job that last worked on it."""
    write_record(folder / "status.json", {"state": state, "job": job_id, **more})


class Progress:
    """Counts steps; made by `progress`."""

    def __init__(self, path: Path | None, bar: tqdm, total: int) -> None:
        self._path, self._bar, self._total = path, bar, total
        self._done = self._before = 0
        self._start = self._written = time.monotonic()
        self._epoch: dict[str, Any] = {}
        self._history: list[dict[str, Any]] = []

    def update(self, steps: int, note: str = "") -> None:
        """Count steps as done: 1, or any number at once that were done before this attempt."""
        self._done += steps
        self._before += steps if steps != 1 else 0
        if note or self._epoch:
            self._bar.set_postfix_str(", ".join(filter(None, (self._described(), note))), refresh=False)
        self._bar.update(steps)
        if time.monotonic() - self._written >= _INTERVAL:
            self.write()

    def tell(self, epoch: int, epochs: int, metric: str, value: float) -> None:
        """Note the epochs of a training run or fit that are done, and the newest value of its metric or loss."""
        self._epoch = {"epoch": epoch, "epochs": epochs, "metric": metric, "value": value}
        self._history = self._history * (epoch > 1) + [{"epoch": epoch, "metric": metric, "test": value}]

    def write(self) -> None:
        """Write `progress.json`: steps done and in all, seconds left, and the epochs of the newest training."""
        self._written = time.monotonic()
        if self._path:
            pace = (self._written - self._start) / max(1, self._done - self._before)
            left = round(pace * (self._total - self._done), 1)
            with suppress(OSError):  # Writers of essential files report a full disk.
                steps = {"done": self._done, "total": self._total, "seconds_left": left}
                write_json(self._path, {**steps, **self._epoch, "history": self._history})

    def _described(self) -> str:
        if not self._epoch:
            return ""
        epoch, epochs, metric, value = self._epoch.values()
        return f"epoch {epoch} of {epochs}, {described(metric, value)}"


@contextmanager
def progress(folder: Path, steps: int, name: str, main: bool) -> Iterator[Progress]:
    """Follow the steps of a job; only its main process shows a bar, called `name`, and writes `progress.json`."""
    with tqdm(total=steps, desc=name, unit="step", disable=None if main else True, leave=False) as bar:
        counter = Progress(folder / PROGRESS if main else None, bar, steps)
        try:
            yield counter
        finally:
            counter.write()


def say(message: str) -> None:
    """Print a line to standard error, above a progress bar if one is shown."""
    tqdm.write(message, file=sys.stderr)


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    for _ in range(2):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode >= 0:  # Otherwise a signal ended it, such as one to all processes of a job.
            return done.stdout if done.returncode == 0 else None
    return None
