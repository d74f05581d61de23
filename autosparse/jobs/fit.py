"""A fit of AutoS to the triples of runs of IRP."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from autosparse import options
from autosparse.cluster import Job
from autosparse.config import NO_IDENTITY, Bounds, Config, FitConfig, Tracker
from autosparse.errors import StoreError, UserError
from autosparse.files import is_json
from autosparse.jobs.tracking import check_trackers

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, kw_only=True)
class FitRun(Job, Config):
    """AutoS fitted to the triples of one or several runs of IRP."""

    kind = "autos"

    runs: tuple[str, ...] = field(metadata=NO_IDENTITY)
    """Folders of runs of `autosparse irp`, or s3:// URLs of their stores; complete, or made by the jobs that this one
    waits for."""
    config: FitConfig = field(default_factory=FitConfig)
    leave_one_out: bool = False
    """Also fit without each run in turn, and report how well that fit predicts the run."""
    threads: Annotated[int, Bounds(0)] = field(default=2, metadata=NO_IDENTITY)
    """Number of threads that read ahead, in each process."""
    data_root: Path | None = field(default=None, metadata=NO_IDENTITY)
    """Folder of the .npz files of the data sets, for rounds and flow. Default: $AUTOSPARSE_DATA, or else data."""
    name: str | None = field(default=None, metadata=NO_IDENTITY)
    """Name of the folder. Default: made from the options."""
    output: Path = field(default=Path("runs"), metadata=NO_IDENTITY)
    """The folder of all runs."""
    track: tuple[Tracker, ...] = field(default=(), metadata=NO_IDENTITY)
    """Trackers that log every epoch; the files of TensorBoard are in RUN/tracking."""

    def check(self) -> None:
        check_trackers(self.track)
        if not self.runs:
            raise UserError("no runs to fit to; give the folders of complete runs of autosparse irp")
        for run in self.runs:
            if "://" not in run and (inside := sorted(path.parent for path in Path(run).glob("*/triples.zarr"))):
                raise UserError(
                    f"{run} is a folder of runs, not a run; name them: {' '.join(map(str, inside[:3]))} ..."
                )
        if len({_parts(run) for run in self.runs}) < len(self.runs):
            raise UserError("a run is named twice; to have it come more often give it a weight")
        if (weights := len(self.config.weights)) not in (0, len(self.runs)):
            raise UserError(f"there are {weights} weights for {len(self.runs)} runs; give one for each")
        if self.name is not None and self.name != Path(self.name).name:
            raise UserError(f"the name is that of one folder, got {self.name!r}")
        if self.leave_one_out and len(self.runs) < 2:
            raise UserError("leaving one out needs at least two runs")
        self.absent()  # raises for other tasks or data; what is not there yet may still come

    @property
    def folder(self) -> Path:
        *_, above, last = ("", *_parts(self.runs[0]))
        labels = above if last == "triples.zarr" else last
        more = f"-and-{len(self.runs) - 1}-more" if len(self.runs) > 1 else ""
        how = self.config
        label = f"_{how.label}" if how.label != "share" else ""
        samples = f"_n{how.samples}" if how.samples else ""
        rounds = f"_r{how.rounds}" if how.rounds > 1 else ""
        details = f"{how.backbone}_{'+'.join(how.features)}_{how.transform}{label}{samples}{rounds}_s{how.seed}"
        return self.output / "autos" / (self.name or f"{labels}{more}_{details}")

    def missing(self) -> str | None:
        from autosparse.store import TripleStore

        for run in self.runs:
            if "://" not in run and not Path(run).exists():
                return f"cannot fit to {run}: it does not exist; name the folder of a complete run of autosparse irp"
            try:
                TripleStore.open(run)
            except StoreError as error:
                return f"cannot fit to {run}: {error}"
        return None

    def absent(self) -> str | None:
        """Also refuses runs whose task or data are others than they were."""
        if not self.config.recomputed or self.missing():
            return None
        from autosparse.jobs.work.remeasure import setting_of
        from autosparse.store import TripleStore

        found = [setting_of(TripleStore.open(run), self.data_root).task.absent() for run in self.runs]
        return next(filter(None, found), None)

    def derived(self) -> dict[str, Any]:
        from autosparse.store import TripleStore

        return {"stores": [TripleStore.open(run).fingerprint for run in self.runs]}

    def options(self) -> dict[str, Any]:
        return options.of(self)

    def is_complete(self) -> bool:
        from autosparse.autos.autos import CARD, WEIGHTS

        return is_json(self.folder / CARD) and (self.folder / WEIGHTS).is_file()

    def run(self, accelerator: "Accelerator") -> None:
        from autosparse.jobs.work import fit

        fit.run(self, accelerator)


def _parts(run: str) -> tuple[str, ...]:
    """The parts of a path or URL."""
    return tuple(run.rstrip("/").split("/")) if "://" in run else Path(run).resolve().parts
