"""Lightning's own Trainer trains a masked network."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from autosparse.pruning import Layout, Mask

lightning = pytest.importorskip("lightning.pytorch")


def trained(mask_of: str, tmp_path: Path) -> tuple[nn.Module, Mask, Tensor]:
    """A module after three steps, its mask, and its weights before."""
    from autosparse.integrations.lightning import HoldMask

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

        def training_step(self, batch: Tensor, number: int) -> Tensor:
            loss: Tensor = self.net(batch).square().mean()
            return loss

        def configure_optimizers(self) -> Optimizer:
            return SGD(self.net.parameters(), 0.1, momentum=0.9)

    torch.manual_seed(0)
    module = Module()
    model = module.net if mask_of == "part" else module
    layout = Layout.of(model)
    mask = Mask(layout, torch.arange(layout.size) % 2 == 0)
    before = layout.flatten(layout.weights(model)).clone()
    quiet = {f"enable_{part}": False for part in ("checkpointing", "progress_bar", "model_summary")}
    callback = HoldMask(mask, model if mask_of == "part" else None)
    trainer = lightning.Trainer(
        max_steps=3, accelerator="cpu", logger=False, default_root_dir=tmp_path, callbacks=[callback], **quiet
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.randn(12, 4), batch_size=4))
    return model, mask, before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mask_of", ["part", "whole"])
def test_removed_weights_are_zero_and_the_others_train(mask_of: str, tmp_path: Path) -> None:
    model, mask, before = trained(mask_of, tmp_path)
    after = mask.layout.flatten(mask.layout.weights(model))
    assert not after[~mask.kept].any()
    assert (after != before)[mask.kept].any()
    assert not model._load_state_dict_post_hooks
