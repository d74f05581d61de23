"""Small networks of the kinds that people prune besides the package's own, and small data."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosparse.pruning import Layout, Mask
from autosparse.tasks import Data, Images


def digits(validation: float = 0.1, **where: Any) -> Data:
    """Return the data of the task images on scikit-learn's digits."""
    return Data(Images(source="digits", validation=validation), **where)


def random_mask(model: nn.Module, density: float = 0.5) -> Mask:
    """Return a mask that keeps about a fraction of a model's weights."""
    layout = Layout.of(model)
    return Mask(layout, torch.rand(layout.size, generator=torch.Generator().manual_seed(0)) < density)


class Attention(nn.Module):
    """Self-attention of one matrix for queries, keys and values, by torch's fused kernel."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class Block(nn.Module):
    """A transformer's block, normalized first."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, 2, causal)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        out: Tensor = x + self.mlp(self.between(x))
        return out


class ViT(nn.Module):
    """A vision transformer for images (1, 8, 8): patches by a convolution, a class token, learned positions.

    Args:
        zero_head: a head of zeros, as before fine-tuning.
    """

    def __init__(self, *, zero_head: bool = False, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, causal=False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)
        if zero_head:
            nn.init.zeros_(self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(images), -1, -1), patches], 1) + self.positions
        scores: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return scores


class GPT(nn.Module):
    """A language model: token ids (B, T) to scores (B, T, vocabulary), its head tied to the embedding."""

    def __init__(self, vocabulary: int = 30, length: int = 12, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, causal=True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        scores: Tensor = self.head(self.norm(self.blocks(x)))
        return scores


def small(width: int) -> nn.Module:
    """A backbone of AutoS in a size that tests can afford, with the kinds of layers of the mlp, and dropout."""
    return nn.Sequential(
        nn.Linear(width, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1), nn.Flatten(0)
    )


def images(count: int = 20) -> list[tuple[Tensor, Tensor]]:
    """A batch for networks of images (1, 8, 8) and ten classes."""
    return [(torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(count) % 10)]


def texts(count: int = 20, length: int = 12, vocabulary: int = 30) -> list[tuple[Tensor, Tensor]]:
    """A batch of token ids and, as targets, each token's next."""
    ids = torch.randint(vocabulary, (count, length + 1), generator=torch.Generator().manual_seed(0))
    return [(ids[:, :-1], ids[:, 1:])]
