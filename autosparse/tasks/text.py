"""Text: a small GPT learns the next byte of a file."""

import functools
import sysconfig
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

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
    """A decoder-only transformer that predicts the next byte; GPT-2 small is 12 layers, 12 heads, width 768,
    context 1024 and vocabulary 50257."""

    better: ClassVar[Literal["higher", "lower"]] = "lower"

    text: Path | None = field(default=None, metadata=NO_IDENTITY)
    """A file. Default: the first MiB of the source of Python's standard library."""
    layers: Annotated[int, Bounds(1)] = 4
    """Blocks of attention and two linear layers."""
    heads: Annotated[int, Bounds(1)] = 4
    """Heads of attention."""
    width: Annotated[int, Bounds(1)] = 128
    """Width of the residual stream, a multiple of the heads."""
    context: Annotated[int, Bounds(2)] = 128
    """Bytes of a sample."""
    vocabulary: Annotated[int, Bounds(256)] = 256
    """Rows of the embedding; bytes use the first 256."""

    @property
    def recipe(self) -> Recipe:
        return Recipe(3, "adamw", 1e-3, batch_size=32, weight_decay=0.1, warmup=0.1, cosine=True, clip=1.0)

    def check(self) -> None:
        if self.width % self.heads:
            raise UserError(f"the width must be a multiple of the heads, got {self.width} and {self.heads}")
        if not self.absent() and len(_read(self.text)) < 40 * self.context:
            raise UserError(
                f"the text has {len(_read(self.text)):,} bytes; at least 40 samples of the context are needed"
            )

    def model(self) -> "nn.Module":
        from autosparse.networks.gpt import GPT

        return GPT(self.vocabulary, self.context, self.layers, self.heads, self.width)

    def dataset(self, split: Split) -> "Dataset[Any]":
        """Sequences of bytes and those that follow each, int64 (N, context); the text is cut into three parts."""
        import torch
        from torch.utils.data import TensorDataset

        text = _read(self.text)
        start, end = (round(share * len(text)) for share in _PARTS[split])
        part = torch.frombuffer(bytearray(text[start:end]), dtype=torch.uint8).long()
        n = (len(part) - 1) // self.context
        inputs, targets = (part[k : k + n * self.context].view(n, self.context) for k in (0, 1))
        return TensorDataset(inputs, targets)

    def loss(self, model: "nn.Module", batch: Any) -> "Tensor":
        from torch.nn import functional as F

        inputs, targets = batch
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    def metrics(self, model: "nn.Module", batch: Any) -> "dict[str, tuple[Tensor, Tensor]]":
        """`loss`, nats a byte, and `accuracy` of the most likely byte."""
        import torch
        from torch.nn import functional as F

        inputs, targets = batch
        scores = model(inputs).flatten(0, 1).float()
        loss = F.cross_entropy(scores, targets.flatten(), reduction="sum")
        right = (scores.argmax(1) == targets.flatten()).sum()
        count = torch.full_like(right, targets.numel())
        return {"loss": (loss, count), "accuracy": (right, count)}

    @property
    def network(self) -> str:
        return f"gpt-{self.layers}x{self.width}"

    @property
    def source(self) -> str:
        return self.text.stem if self.text else "python"

    def absent(self) -> str | None:
        return None if self.text is None or self.text.is_file() else f"there is no file {self.text}, which --text names"

    def digest(self) -> str:
        return f"{zlib.crc32(_read(self.text)):08x}"


@functools.lru_cache(maxsize=2)
def _read(path: Path | None) -> bytes:
    if path is not None:
        return path.read_bytes()
    found = bytearray()
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        found += file.read_bytes()
        if len(found) >= _BYTES:
            break
    return bytes(found[:_BYTES])
