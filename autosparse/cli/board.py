"""The board: `autosparse board run --track lenet --criteria mine.py:score`, then `autosparse board show`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from autosparse import cluster
from autosparse.cluster import Resources, records
from autosparse.errors import UserError
from autosparse.jobs import PruneRun
from autosparse.study import board, board_page


@dataclass(frozen=True)
class Run:
    """Run what the results of a track lack, add it to the results, and print the board."""

    track: str = "lenet"
    """Network, data, recipe and seeds: lenet, resnet8, vgg7, gpt, resnet20 (for a GPU), or digits for a trial."""
    criteria: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--criterion"])] = ()
    """Criteria to run, by name or as FILE.py:FUNCTION. Default: all of the board."""
    sparsities: Annotated[tuple[float, ...], tyro.conf.arg(aliases=["--sparsity"])] = ()
    """Sparsities to run, of those of the track. Default: all of them."""
    seeds: tuple[int, ...] = ()
    """Seeds to run, of those of the track. Default: all of them."""
    results: Path = Path("results")
    """Folder of the results, one file per track."""
    output: Path = Path("runs/board")
    """Folder of the runs."""
    resources: Resources = field(default_factory=Resources)

    def run(self) -> None:
        track, path = board.find_track(self.track), board.results_file(self.results, self.track)
        rows = board.read(path)
        chosen = board.methods(self.criteria)
        runs = board.jobs_of(track, chosen, self.sparsities, self.seeds, self.output / self.track)
        missing = [(method, run) for method, run in runs if not board.is_known(rows, method, run)]
        task = track.setting.task
        if missing and not task.absent():
            board.check_data(task, rows, task.digest())
        try:
            if missing:
                jobs = {run.folder: run for _, run in missing}
                cluster.launch([*jobs.values()], self.resources, self.output / self.track, "board")
        finally:  # Runs that failed or were stopped keep no other from the results.
            if not self.resources.dry_run:
                board.add(path, [(method, run) for method, run in missing if _is_done(run)])
        if not self.resources.dry_run:
            print(board_page.page(self.results, [self.track]))


def _is_done(run: PruneRun) -> bool:
    """Return True if a run is complete and of the configuration that is asked for."""
    try:
        return run.is_complete() and not records.config_difference(run)
    except UserError:  # Its configuration is damaged.
        return False


@dataclass(frozen=True)
class Show:
    """Print the board of all tracks that have results, as Markdown."""

    results: Path = Path("results")
    """Folder of the results, one file per track. Tracks without a file have the results that came with the package."""
    picture: Path | None = None
    """Picture of all tracks at one sparsity to write: a path that ends in .png or .svg; both are written."""
    sparsity: float | None = None
    """Sparsity of the picture. Default: 0.98."""

    def run(self) -> None:
        if self.picture is None and self.sparsity is not None:
            raise UserError("--sparsity is that of a picture; add --picture board.png")
        if self.picture and self.picture.suffix not in (".png", ".svg"):
            raise UserError(f"a picture is a .png or an .svg file, got {self.picture}")
        if not self.results.is_dir() and self.results != Show.results:
            raise UserError(f"there is no folder {self.results}")
        names = list(board.TRACKS)
        print(board_page.page(self.results, names), end="")
        if self.picture:
            sparsity = 0.98 if self.sparsity is None else self.sparsity
            board_page.picture(self.results, names, sparsity).save(self.picture.with_suffix(""))


@dataclass(frozen=True)
class Arguments:
    """Compare criteria at equal cost, over paired seeds.

    Examples:
      autosparse board run --track lenet --criteria mine.py:score
      autosparse board run --track digits --criteria snip synflow --sparsities 0.95
      autosparse board show
    """

    action: tyro.conf.OmitSubcommandPrefixes[Run | Show]


def main(a: Arguments) -> None:
    """Run the action."""
    a.action.run()
