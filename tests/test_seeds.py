import numpy as np
import pandas as pd
import pytest
import torch

from autosparse import networks
from autosparse.criteria import Scoring, make_criterion
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from autosparse.seeds import stream, streams


def test_streams_of_one_seed_are_different() -> None:
    values = [stream("a", 1), stream("b", 1), stream("a", 2), stream("a", 1, 0), stream("a", 0, 1), stream("a")]
    assert len(set(values)) == 6
    assert stream("a", 1) == values[0] == streams("a", 3, 1)[0]
    assert all(0 <= value < 1 << 63 for value in values)
    with pytest.raises(UserError, match="must not be negative, got -1"):
        stream("a", -1)


def test_a_random_criterion_knows_nothing_of_the_weights_of_its_seed() -> None:
    model = networks.build("lenet-300-100", seed=3)
    layout = Layout.of(model)
    scores = layout.unflatten(make_criterion("random", 3)(model, Mask.full(layout), Scoring()))
    for name, weight in layout.weights(model).items():
        ranks = [pd.Series(torch.flatten(t.detach()).abs().numpy()).rank() for t in (scores[name], weight)]
        assert abs(np.corrcoef(ranks[0], ranks[1])[0, 1]) < 4 / weight.numel() ** 0.5
