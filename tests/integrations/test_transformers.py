"""Hugging Face's own Trainer trains a masked network."""

from pathlib import Path

import pytest
import torch

from autosparse.pruning import Layout, Mask

transformers = pytest.importorskip("transformers")


@pytest.mark.filterwarnings("ignore")
def test_removed_weights_are_zero_and_the_others_train(tmp_path: Path) -> None:
    from autosparse.integrations.transformers import HoldMask

    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    layout = Layout.of(model)
    assert not any("wte" in layer.name or "lm_head" in layer.name for layer in layout.layers)
    mask = Mask(layout, torch.arange(layout.size) % 2 == 0)
    before = layout.flatten(layout.weights(model)).clone()
    tokens = [{"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4]}] * 12
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, report_to=[], use_cpu=True, learning_rate=1e-2, disable_tqdm=True
    )
    transformers.Trainer(model, arguments, train_dataset=tokens, callbacks=[HoldMask(mask)]).train()
    after = layout.flatten(layout.weights(model))
    assert not after[~mask.kept].any()
    assert (after != before)[mask.kept].any()
