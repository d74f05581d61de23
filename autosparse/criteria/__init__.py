"""Criteria by name. A criterion scores every prunable parameter, and the highest scores are kept.

`criterion(model, mask, scoring) -> scores`: `mask` is already applied to the model's weights, `scoring` holds batches
and their loss, and scores are float32 (P,) in layout order, on the model's device. The model is left unchanged. Under
`torch.distributed` each process passes its own batches, and all get the scores of all batches.

A criterion that chooses the mask itself, in rounds or layer by layer, has a method `choose`. `select` takes either and
returns the mask. `table` lists all criteria.
"""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.criteria.base import Chooser, Criterion, Scoring, select
    from autosparse.criteria.table import make_criterion

__all__ = ["Chooser", "Criterion", "Scoring", "make_criterion", "select"]
__getattr__ = lazily(__name__)
