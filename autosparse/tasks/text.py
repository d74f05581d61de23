"""Language modeling: a small GPT predicts the next byte of a file."""

import functools
import sys
import sysconfig
import unicodedata
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from autosparse.config import NO_IDENTITY, Bounds, Config
from autosparse.errors import UserError
from autosparse.tasks.base import Split, Task
from autosparse.tasks.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

_BYTES = 1 << 20  # of the text that comes with Python
_PARTS: dict[Split, tuple[float, float]] = {"train": (0.0, 0.9), "validation": (0.9, 0.95), "test": (0.95, 1.0)}


@dataclass(frozen=True, kw_only=True)
class Text(Config, Task):
    """A decoder-only transformer that predicts the next byte.

    GPT-2 small has 12 layers, 12 heads, width 768, context 1024 and vocabulary 50257.
    """

    better: ClassVar[Literal["higher", "lower"]] = "lower"

    text: Literal["python", "unicode"] | Path = field(default="python", metadata=NO_IDENTITY)
    """Path of a file, or a text that comes with Python. python: the first MiB of the source of the standard library,
    which differs between versions; unicode: the names of 12,886 characters in mixed order, 346 KiB, always the same."""
    size: Annotated[int | None, Bounds(1)] = field(default=None, metadata=NO_IDENTITY)
    """Number of bytes to use, from the start of the text. Default: all."""
    layers: Annotated[int, Bounds(1)] = 4
    """Number of blocks, each of attention and two linear layers."""
    heads: Annotated[int, Bounds(1)] = 4
    """Number of attention heads."""
    width: Annotated[int, Bounds(1)] = 128
    """Width of the residual stream, a multiple of the number of heads."""
    context: Annotated[int, Bounds(2)] = 128
    """Length of a sample in bytes."""
    vocabulary: Annotated[int, Bounds(256)] = 256
    """Number of rows of the embedding; bytes use the first 256."""
    recipe_name: Annotated[Literal["short", "long"], tyro.conf.arg(name="recipe")] = field(
        default="short", metadata=NO_IDENTITY
    )
    """Recipe of the training; long: for the network and text of the board's track, which overfit if trained twice as
    long."""

    @property
    def recipe(self) -> Recipe:
        short = Recipe(3, "adamw", 1e-3, batch_size=32, weight_decay=0.1, warmup=0.1, cosine=True, clip=1.0)
        if self.recipe_name == "short":
            return short
        return replace(short, epochs=32, learning_rate=3e-3, batch_size=16, weight_decay=1.0)

    def check(self) -> None:
        if self.width % self.heads:
            raise UserError(f"the width must be a multiple of the heads, got {self.width} and {self.heads}")
        if not self.absent() and len(text := self._read()) < 40 * self.context:
            raise UserError(f"the text has {len(text):,} bytes; at least 40 samples of the context are needed")

    def model(self) -> "nn.Module":
        from autosparse.networks.gpt import GPT

        return GPT(self.vocabulary, self.context, self.layers, self.heads, self.width)

    def dataset(self, split: Split) -> "Dataset[Any]":
        """Return sequences of bytes and of the bytes that follow each, int64 (N, context) each."""
        import torch
        from torch.utils.data import TensorDataset

        text = self._read()
        start, end = (round(fraction * len(text)) for fraction in _PARTS[split])
        part = torch.frombuffer(bytearray(text[start:end]), dtype=torch.uint8).long()
        n = (len(part) - 1) // self.context
        inputs, targets = (part[k : k + n * self.context].view(n, self.context) for k in (0, 1))
        return TensorDataset(inputs, targets)

    def loss(self, model: "nn.Module", batch: Any) -> "Tensor":
        from torch.nn import functional as F

        inputs, targets = batch
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    def metrics(self, model: "nn.Module", batch: Any) -> "dict[str, tuple[Tensor, Tensor]]":
        """Return `loss` in nats per byte, and `accuracy` of the most likely byte."""
        import torch
        from torch.nn import functional as F

        inputs, targets = batch
        scores = model(inputs).flatten(0, 1).float()
        loss = F.cross_entropy(scores, targets.flatten(), reduction="sum")
        correct = (scores.argmax(1) == targets.flatten()).sum()
        count = torch.full_like(correct, targets.numel())
        return {"loss": (loss, count), "accuracy": (correct, count)}

    @property
    def network(self) -> str:
        return f"gpt-{self.layers}x{self.width}"

    @property
    def source(self) -> str:
        return self.text.stem if isinstance(self.text, Path) else self.text

    def absent(self) -> str | None:
        if isinstance(self.text, Path) and not self.text.is_file():
            return f"the file {self.text} of --text does not exist"
        return None

    def digest(self) -> str:
        return f"{zlib.crc32(self._read()):08x}"

    def _read(self) -> bytes:
        return _read(self.text)[: self.size]


@functools.lru_cache(maxsize=2)
def _read(text: str | Path) -> bytes:
    if isinstance(text, Path):
        return text.read_bytes()
    return _unicode() if text == "unicode" else _python()


def _python() -> bytes:
    text = bytearray()
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += file.read_bytes()
        if len(text) >= _BYTES:
            break
    return bytes(text[:_BYTES])


def _unicode() -> bytes:
    """Return the names of Unicode 3.2 in the order of their checksums, without CJK ideographs and Hangul syllables."""
    database = unicodedata.ucd_3_2_0  # kept by every Python
    names = (database.name(chr(code), "") for code in range(sys.maxunicode + 1))
    lines = [
        name.encode() for name in names if name and not name.startswith(("CJK UNIFIED", "CJK COMPAT", "HANGUL SYL"))
    ]
    return b"\n".join(sorted(lines, key=zlib.crc32))
