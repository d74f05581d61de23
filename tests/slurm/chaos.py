"""What a cluster does to jobs, at random: a seeded event at a time, each written to a log with what it cost."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autosparse.cluster import Job, slurm
from autosparse.files import read_record
from tests.mounts import remount
from tests.slurm.conftest import Sandbox

SMALL_FILES = ("job.json", "status.json", "progress.json", "history.json")
NODES = {"gpu1": "gpu", "gpu2": "gpu", "cpu1": "cpu", "cpu2": "cpu"}  # and the partition whose jobs preempt there
PREEMPTING = "preempts"
Event = Callable[[], tuple[str, Sequence[Job]] | None]


class Chaos:
    """Strikes jobs of the partition `low` on a sandbox, and repairs what it broke seconds later.

    An event says what it has struck, and which runs have been stopped by it; None where there was nothing to strike.

    Args:
        sandbox: the cluster.
        disk: a file system that holds the runs; filled if it is a mount of its own.
        runs: all of them.
        again: gives the command that asks for the runs.
        log: JSON lines: events, runs that go on after them, and what else is written.
        seed: of all that is random.
        but: events that do not come.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        disk: Path,
        runs: Sequence[Job],
        again: Callable[[], None],
        log: Path,
        seed: int,
        but: Sequence[str] = (),
    ) -> None:
        self._sandbox, self._disk, self._runs, self._again = sandbox, disk, runs, again
        self._log, self._random = log, random.Random(seed)
        self._repairs: list[threading.Timer] = []
        self._stopped: dict[Path, tuple[float, str]] = {}
        self._broken: set[str] = set()
        self._times = Counter[str]()
        self._events: dict[str, Event] = {
            "a job's process is killed": self._kill,
            "a job is cancelled": self._cancel,
            "a job is queued again by hand": self._requeue,
            "a job is preempted": self._preempt,
            "a job is suspended": self._suspend,
            "a node loses its power": self._crash,
            "a node is drained": self._drain,
            "the controller is killed": self._crash_controller,
            "the disk is full": self._fill,
            "a small file is damaged": self._damage,
            "the same command is given again": self._command,
        }
        for name in but:
            del self._events[name]

    def strike(self) -> None:
        """One event: of the kinds that have come least often, one for which there is something to strike."""
        kinds = self._random.sample(list(self._events), len(self._events))
        for name in sorted(kinds, key=lambda name: (self._times[name], not name.startswith("a job"))):
            if struck := self._events[name]():
                what, stopped = struck
                self._times[name] += 1
                self.write(event=name, what=what, stopped=[job.folder.name for job in stopped])
                for job in stopped:
                    self._stopped.setdefault(job.folder, (time.time(), name))
                return
        raise AssertionError("nothing to strike")

    def note(self) -> None:
        """Note which runs go on."""
        for folder, (since, why) in list(self._stopped.items()):
            status = folder / "status.json"
            goes_on = read_record(status).get("state") in ("running", "complete")
            if goes_on and status.stat().st_mtime > since + 1:  # not what the attempt that was struck has still said
                del self._stopped[folder]
                self.write(goes_on=folder.name, after=why, seconds=round(status.stat().st_mtime - since, 1))

    def repair(self) -> None:
        """Wait until everything is repaired, and take out of the queue what was to preempt."""
        for repair in self._repairs:
            repair.join()
        for node in NODES:  # a controller that was killed may count a job twice when it is back, and drains its node
            _call("scontrol", "update", f"nodename={node}", "state=resume")
        _call("scancel", f"--name={PREEMPTING}")  # held for good, if a node could not start it
        for job_id, state in (slurm.queue() or {}).items():
            if state.state == "SUSPENDED":  # a controller that was killed just then has forgotten that it is resumed
                _call("scontrol", "resume", job_id)

    def write(self, **what: Any) -> None:
        """Add a line to the log."""
        with self._log.open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 1), **what}) + "\n")

    def _later(self, most: float, repair: Callable[[], object]) -> None:
        self._repairs.append(threading.Timer(self._random.uniform(1, most), repair))
        self._repairs[-1].start()

    def _running(self) -> dict[str, Job]:
        """Runs that jobs work on, by the job's id."""
        running = {job_id for job_id, state in (slurm.queue() or {}).items() if state.state == "RUNNING"}
        said = {read_record(job.folder / "status.json").get("job"): job for job in self._runs}
        return {job_id: job for job_id, job in said.items() if job_id in running}

    def _one(self) -> tuple[str, Job] | None:
        running = sorted(self._running().items())
        return self._random.choice(running) if running else None

    def _kill(self) -> tuple[str, Sequence[Job]] | None:
        if not (found := self._one()) or not (processes := _processes_of(found[0], self._sandbox)):
            return None
        os.kill(self._random.choice(processes), signal.SIGKILL)
        return found[0], [found[1]]

    def _cancel(self) -> tuple[str, Sequence[Job]] | None:
        return self._told("scancel")

    def _requeue(self) -> tuple[str, Sequence[Job]] | None:
        return self._told("scontrol", "requeue")

    def _told(self, *command: str) -> tuple[str, Sequence[Job]] | None:
        """Slurm is told to stop a job."""
        found = self._one()
        return (found[0], [found[1]]) if found and _call(*command, found[0]) else None

    def _preempt(self) -> tuple[str, Sequence[Job]] | None:
        if not (found := self._one()):
            return None
        node = read_record(found[1].folder / "status.json").get("node")
        if node in self._broken or node not in NODES:
            return None
        where = [f"--partition={NODES[node]}", f"--nodelist={node}", "--cpus-per-task=8", "--time=1"]
        if not _call("sbatch", *where, "--output=/dev/null", f"--job-name={PREEMPTING}", "--wrap=sleep 1"):
            return None
        return node, [found[1]]

    def _suspend(self) -> tuple[str, Sequence[Job]] | None:
        found = self._one()
        if not found or not _call("scontrol", "suspend", found[0]):
            return None
        self._later(5, lambda: _call("scontrol", "resume", found[0]))
        return found[0], []

    def _crash(self) -> tuple[str, Sequence[Job]] | None:
        if not (whole := [node for node in NODES if node not in self._broken]):
            return None
        node = self._random.choice(whole)
        there = [job for job in self._running().values() if read_record(job.folder / "status.json").get("node") == node]
        self._break(node, 8)
        _call("scontrol", "update", f"nodename={node}", "state=down", "reason=power")
        return node, there

    def _drain(self) -> tuple[str, Sequence[Job]] | None:
        node = self._random.choice(list(NODES))
        if node in self._broken or not _call("scontrol", "update", f"nodename={node}", "state=drain", "reason=chaos"):
            return None
        self._later(8, lambda: _call("scontrol", "update", f"nodename={node}", "state=resume"))
        return node, []

    def _crash_controller(self) -> tuple[str, Sequence[Job]] | None:
        if "controller" in self._broken:
            return None
        self._break("controller", 5)
        return "controller", []

    def _break(self, what: str, most: float) -> None:
        def boot() -> None:
            self._sandbox("boot", what)
            self._broken.remove(what)
            if what != "controller":
                _call("scontrol", "update", f"nodename={what}", "state=resume")

        self._broken.add(what)
        self._sandbox("crash", what)
        self._later(most, boot)

    def _fill(self) -> tuple[str, Sequence[Job]] | None:
        if not os.path.ismount(self._disk) or "disk" in self._broken:
            return None

        def empty() -> None:
            remount("size=1g", self._disk)
            self._broken.remove("disk")

        disk = os.statvfs(self._disk)
        used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize // 1024
        remount(f"size={used + 4}k", self._disk)
        self._broken.add("disk")
        self._later(4, empty)
        return f"at {used} KiB", list(self._running().values())

    def _damage(self) -> tuple[str, Sequence[Job]] | None:
        there = [path for job in self._runs for name in SMALL_FILES if (path := job.folder / name).is_file()]
        if not there or "disk" in self._broken:
            return None
        path = self._random.choice(there)
        content = path.read_bytes()
        path.write_bytes(self._random.choice([b"", content[: len(content) // 2], bytes(len(content))]))
        return f"{path.parent.name}/{path.name}", []

    def _command(self) -> tuple[str, Sequence[Job]] | None:
        self._again()
        return "by its user", []


def _call(*command: str) -> bool:
    """Whether a command of Slurm did what it was asked to; where the controller is down, it does not."""
    return subprocess.run(command, capture_output=True, timeout=600).returncode == 0


def _processes_of(job_id: str, sandbox: Sandbox) -> list[int]:
    """The processes of a job's work, on whichever node."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "environ").read_bytes().decode(errors="replace").split("\0")
            command = (process / "cmdline").read_bytes()
        except OSError:  # gone by now
            continue
        said = dict(word.partition("=")[::2] for word in words)
        array = f"{said.get('SLURM_ARRAY_JOB_ID')}_{said.get('SLURM_ARRAY_TASK_ID')}"
        here = said.get("SLURM_CONF") == sandbox.environment["SLURM_CONF"]
        if here and job_id in (said.get("SLURM_JOB_ID"), array) and b"autosparse.cluster.process" in command:
            found.append(int(process.name))
    return sorted(found)


def summary(log: Path) -> str:
    """How often each kind of event came, how many runs it stopped, and how long until they were worked on again."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    events, seconds = defaultdict[str, list[int]](list), defaultdict[str, list[float]](list)
    for line in lines:
        for name in (line.get("event") or line.get("after"), "all"):
            if "event" in line:
                events[name].append(len(line["stopped"]))
            elif "goes_on" in line:
                seconds[name].append(line["seconds"])
    rows = ["| event | times | runs stopped | seconds to go on: median, worst |", "| --- | --- | --- | --- |"]
    for name in sorted(events, key=lambda name: (name == "all", name)):
        took = sorted(seconds[name])
        cost = f"{took[len(took) // 2]:.0f}, {took[-1]:.0f}" if took else ""
        rows.append(f"| {name} | {len(events[name])} | {sum(events[name])} | {cost} |")
    return "\n".join(rows)
