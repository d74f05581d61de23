"""What AutoS learns from, what it predicts, and how far runs agree: the paper's figures of scores and its Table 9."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

from autosparse.autos import AutoS, Surface
from autosparse.autos.backbones import make_network
from autosparse.cluster import Job
from autosparse.criteria import ONE_SHOT
from autosparse.irp import SCORING_BATCH
from autosparse.jobs import FitRun, IRPRun
from autosparse.pruning import Mask
from autosparse.store import TripleStore
from autosparse.study import figures
from autosparse.study.consistency import concordance
from autosparse.study.document import Document
from autosparse.study.experiment import Method


@dataclass(frozen=True)
class Predictions:
    """Survival as it was and as AutoS predicts it, before and after its fit (paper, Figures 4 and 5)."""

    title: str
    stem: str
    fits: tuple[Method, ...]
    before: bool = False

    def jobs(self) -> list[Job]:
        return [run for fit in self.fits for run in (*fit.sources, fit.by) if isinstance(run, Job)]

    def write(self, document: Document) -> None:
        document.heading(self.title, 3)
        for fit in self.fits:
            assert isinstance(fit.by, FitRun)
            autos, store = AutoS.load(fit.by.folder), TripleStore.open(fit.sources[0].folder)
            stem = f"{self.stem}_{fit.by.folder.name}"
            if self.before:
                untrained = make_network(autos.backbone, autos.features, fit.by.how.seed).eval()
                blank = AutoS(untrained, autos.backbone, autos.features, autos.card)
                figure = figures.truth_and_prediction(blank, store)
                document.figure(figure, f"{stem}_before", f"{fit.label}, before its fit.")
            figure = figures.truth_and_prediction(autos, store)
            document.figure(figure, f"{stem}_after", f"{fit.label}: as it was, and as predicted after the fit.")
            surface = Surface.load(fit.by.folder)
            document.figure(figures.learned_map(autos, surface), f"{stem}_map", f"{fit.label}: the learned map.")


@dataclass(frozen=True)
class Scores:
    """Survival beside the initial weight, and beside SNIP and GraSP at initialization (paper, Figure 1)."""

    title: str
    stem: str
    runs: tuple[IRPRun, ...]

    def jobs(self) -> list[Job]:
        return [*self.runs]

    def write(self, document: Document) -> None:
        document.heading(self.title, 3)
        for run in self.runs:
            store = TripleStore.open(run.folder)
            theta, grad = store.theta(), store.grad()
            accelerator = Accelerator()
            model, data = run.setting.make(run.seed, accelerator)
            batches = data.scoring(SCORING_BATCH, run.setting.grad_batches)
            with torch.no_grad():
                flow = ONE_SHOT["grasp"](run.seed)(model, Mask.full(store.layout, accelerator.device), batches)
            columns = {"theta": theta, "SNIP: |theta grad|": np.abs(theta * grad), "GraSP": flow.cpu().numpy()}
            figure = figures.survival_beside(columns, store.survival() / store.iterations)
            name = run.folder.name
            document.figure(figure, f"{self.stem}_{name}", f"{name}: survival beside what is known at initialization.")


@dataclass(frozen=True)
class Agreement:
    """Concordance of survival between runs of IRP (paper, Table 9, eq. 5).

    `pairs`: by label, the pairs of runs from the same initial weights, and from different ones; one pair a repetition.
    """

    title: str
    pairs: dict[str, tuple[tuple[tuple[IRPRun, IRPRun], ...], tuple[tuple[IRPRun, IRPRun], ...]]]
    paper: dict[str, tuple[float, float]]

    def jobs(self) -> list[Job]:
        return [run for kinds in self.pairs.values() for pairs in kinds for pair in pairs for run in pair]

    def write(self, document: Document) -> None:
        document.heading(self.title, 3)
        document.text("Concordance correlation coefficient of survival: the paper → here, mean ± deviation.")
        rows = []
        for label, kinds in self.pairs.items():
            cells = []
            for pairs, there in zip(kinds, self.paper[label], strict=True):
                found = pd.Series([concordance(*(TripleStore.open(run.folder) for run in pair)) for pair in pairs])
                deviation = f" ± {found.std():.4f}" if len(found) > 1 else ""
                cells.append(f"{there:.4f} → {found.mean():.4f}{deviation}")
            rows.append(cells)
        columns = ["same initial weights", "different"]
        document.table(pd.DataFrame(rows, index=list(self.pairs), columns=columns).rename_axis("runs of IRP"))
