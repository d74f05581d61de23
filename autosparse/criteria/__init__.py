"""What decides: criteria by name. A criterion scores every prunable parameter; higher is kept.

`criterion(model, mask, batches) -> scores`: the model's weights are those to be scored, `mask` has already been applied
to them. `batches` is an iterable of (inputs, targets), whose loss is the cross-entropy, or an iterable of anything
with an attribute `loss` that takes it. Scores are float32 (P,) in layout order, on the model's device. The model is
left as it was. Under `torch.distributed` each process passes its own batches, and all get the scores of all batches.

A criterion that must know how many weights k are to be kept has `at(k)` instead, which is such a criterion. `select`
takes either and returns the mask.
"""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.criteria.base import Criterion, Targeted, select
    from autosparse.criteria.catalog import make_criterion

__all__ = ["Criterion", "Targeted", "make_criterion", "select"]
__getattr__ = lazily(__name__)
