"""An attempt at a job: what is submitted, and what happens around the work."""

import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import submitit
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from autosparse.cluster import interruption, process, provenance
from autosparse.cluster.job import ERRORS, Job, describe
from autosparse.cluster.lease import lease
from autosparse.cluster.requeue import requeue, requeues
from autosparse.cluster.speaking import about, speaking
from autosparse.errors import UserError
from autosparse.files import remove_unfinished, write_record

log = logging.getLogger("autosparse")


@dataclass(frozen=True)
class Attempt:
    """Runs a job, or several together, in each process that Slurm or this machine starts; it is what is submitted.

    A job's state is in its folder, so going on is running again.

    Attributes:
        jobs: one, or several that run together.
        cpus: threads of each process; as many as PyTorch takes, if None.
        max_requeues: how often it may be requeued.
    """

    jobs: tuple[Job, ...]
    cpus: int | None
    max_requeues: int = 0

    def __call__(self) -> None:
        """Do the work.

        Raises:
            Exception: of the first job that failed.
        """
        for error in self.run().values():
            raise error

    def run(self) -> dict[Path, Exception]:
        """Do the work; returns which jobs failed, by folder, and why."""
        accelerator = process.start(self.cpus)
        inside = submitit.JobEnvironment() if "SUBMITIT_EXECUTOR" in os.environ else None
        on_slurm = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
        job_id = inside.job_id if inside and on_slurm else None
        main = accelerator.is_main_process
        try:
            with interruption.listening():
                failed = self._attempt(accelerator, job_id)
        except interruption.InterruptedAtStep as stop:
            accelerator.wait_for_everyone()
            if interruption.lost():
                raise UserError(str(stop)) from None
            if not on_slurm:
                raise KeyboardInterrupt from None
            requeue(self.max_requeues, main)
        if inside and not failed:
            process.finish(accelerator)
        return failed

    def _attempt(self, accelerator: Accelerator, job_id: str | None) -> dict[Path, Exception]:
        """Hold and record each job for as long as all of them work; what a job fails in is recorded as its own."""
        failed = dict[Path, BaseException]()
        begun = list[tuple[Job, ExitStack, bool]]()
        for job in self.jobs:
            with _collecting(failed, job), ExitStack() as held:
                if accelerator.is_main_process:
                    # An earlier command that was killed may have left its job behind.
                    local = os.environ.get("SUBMITIT_EXECUTOR") == "local"
                    held.enter_context(lease(job.folder, job_id, wait=local))
                to_do = held.enter_context(self._recorded(job, accelerator, job_id))
                begun.append((job, held.pop_all(), to_do))
        ends: Mapping[Path, BaseException] = {}
        try:
            ends = _work([job for job, _, to_do in begun if to_do], accelerator)
        except BaseException as stop:  # of all of them
            ends = {job.folder: stop for job, _, to_do in begun if to_do}
        for job, held, _ in begun:
            with _collecting(failed, job), held:
                if error := ends.get(job.folder):
                    raise error
        return {folder: _failure(error) for folder, error in failed.items()}

    @contextmanager
    def _recorded(self, job: Job, accelerator: Accelerator, job_id: str | None) -> Iterator[bool]:
        """Record in a run's folder how the block ended; yields whether there is anything to do."""
        folder, main, rank = job.folder, accelerator.is_main_process, accelerator.process_index
        if main:  # an earlier attempt may have had more processes; the others are held by the broadcast below
            for path in folder.glob(ERRORS):
                path.unlink(missing_ok=True)
            remove_unfinished(folder, but="job.json")  # which is written by who submits, maybe now
        with _logging_to(folder, rank, named=len(self.jobs) > 1):
            try:
                to_do = not broadcast_object_list([main and _is_complete(job)])[0]
                if to_do:
                    if job_id and requeues() > self.max_requeues:  # by Slurm itself: lost nodes, preemptions
                        raise UserError(f"was queued again more than {self.max_requeues} times, see max-requeues")
                    if main:
                        provenance.write_config(job)
                        provenance.write_environment(folder, job_id)
                        _say(folder, "running", job_id)
                    accelerator.wait_for_everyone()
                yield to_do
            except interruption.InterruptedAtStep as stop:
                log.info("stopped at a step, everything saved: %s", stop)
                if main and not interruption.lost():
                    _say(folder, "interrupted", job_id, why=str(stop))
                raise
            except BaseException as error:
                user = isinstance(error, UserError)
                log.error("%s", describe(error), exc_info=not user)
                write_record(folder / "logs" / f"rank{rank}.error.json", {"error": describe(error), "user": user})
                if main:
                    _say(folder, "failed", job_id, why=describe(error))
                raise
            if main:
                _say(folder, "complete", job_id)


def _work(jobs: Sequence[Job], accelerator: Accelerator) -> Mapping[Path, Exception]:
    """Run them; returns which failed by themselves, and why."""
    try:
        if len(jobs) == 1:
            jobs[0].run(accelerator)
        elif jobs:
            return type(jobs[0]).run_together(jobs, accelerator)
    except SystemExit as stop:  # Slurm would take the job of sys.exit(0) for a complete one.
        error = RuntimeError(f"sys.exit({stop.code!r}) was called before the run was complete")
        raise error.with_traceback(stop.__traceback__) from None
    return {}


@contextmanager
def _collecting(failed: dict[Path, BaseException], job: Job) -> Iterator[None]:
    """Note what a job fails in, and speak in its name."""
    with speaking(job.folder):
        try:
            yield
        except BaseException as error:
            failed[job.folder] = error


def _failure(error: BaseException) -> Exception:
    """An error, if it is one: being asked to stop is not, and goes on up now that all have recorded it."""
    if isinstance(error, interruption.InterruptedAtStep) or not isinstance(error, Exception):
        raise error
    return error


def _is_complete(job: Job) -> bool:
    """Whether there is nothing to do; of a job that was submitted before its input was there, only now."""
    if difference := provenance.config_difference(job):
        raise UserError(difference)
    return job.is_complete()


def _say(folder: Path, state: str, job_id: str | None, **more: str) -> None:
    place = {"node": socket.gethostname(), "requeues": requeues()}
    provenance.write_status(folder, state, job_id, **place, **more)


class _File(logging.FileHandler):
    """A log that reports a full disk once, in one line, and lets the work go on."""

    _full = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._full:
            self._full = True
            with suppress(OSError):  # standard error may lie on the same disk
                print(f"{error.strerror}: {self.baseFilename}; going on without this log", file=sys.stderr)

    def close(self) -> None:
        with suppress(OSError):  # what there was no room for is tried once more
            super().close()


@contextmanager
def _logging_to(folder: Path, rank: int, named: bool) -> Iterator[None]:
    """Log what is of this run to a file in its folder, and the main process also to standard error, named or not."""
    path = folder / "logs" / f"rank{rank}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _File(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    console = logging.StreamHandler(sys.stderr)
    name = f"{folder.name.replace('%', '%%')}: " if named else ""
    console.setFormatter(logging.Formatter(f"{name}%(message)s"))
    console.addFilter(lambda record: record.levelno < logging.ERROR)  # errors are reported by who started the job
    handlers: list[logging.Handler] = [file] if rank else [file, console]
    for handler in handlers:
        handler.addFilter(about(folder))
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
        file.close()
