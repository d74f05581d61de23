"""GPT-2 of Hugging Face, from random weights: `python launch/irp.py --task examples/hugging_face.py:GPT2`.

Needs `pip install 'autosparse[transformers]'`; nothing is downloaded.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel

from autosparse import Task
from autosparse.config import NO_IDENTITY
from autosparse.tasks import Text
from autosparse.training import Recipe


@dataclass(frozen=True, kw_only=True)
class GPT2(Task):
    """The next byte of a text, in batches that are dictionaries."""

    better: ClassVar = "lower"

    layers: int = 2
    """Blocks."""
    width: int = 64
    """Width, four heads."""
    context: int = 64
    """Bytes of a sample."""
    text: Literal["python", "unicode"] | Path = field(default="python", metadata=NO_IDENTITY)
    """A file, or a text that comes with Python."""

    @property
    def recipe(self) -> Recipe:
        return Recipe(1, "adamw", 1e-3, batch_size=32, weight_decay=0.1, warmup=0.1, cosine=True, clip=1.0)

    def model(self) -> nn.Module:
        sizes = {"n_layer": self.layers, "n_embd": self.width, "n_head": 4, "n_positions": self.context}
        dropouts = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
        return GPT2LMHeadModel(GPT2Config(vocab_size=256, bos_token_id=0, eos_token_id=0, **sizes, **dropouts))

    def dataset(self, split: Any) -> "Sequences":
        return Sequences(self._text.dataset(split))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        loss: Tensor = model(**batch).loss
        return loss

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        count = torch.tensor(len(batch["labels"]))
        return {"loss": (self.loss(model, batch).float() * count, count)}

    def digest(self) -> str:
        return self._text.digest()

    @property
    def _text(self) -> Text:
        return Text(context=self.context, text=self.text)


@dataclass(frozen=True)
class Sequences(Dataset[dict[str, Tensor]]):
    """Batches for models of Hugging Face: the labels are the inputs, which the model shifts by itself."""

    samples: Any

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens, _ = self.samples[index]
        return {"input_ids": tokens, "labels": tokens}
