"""The networks that are pruned, by name, with Kaiming normal weights."""

from typing import TYPE_CHECKING

from autosparse.lazy import lazily

if TYPE_CHECKING:
    from autosparse.networks.catalog import NETWORKS, check
    from autosparse.networks.initial import build, draw, initialize_

__all__ = ["NETWORKS", "build", "check", "draw", "initialize_"]
__getattr__ = lazily(__name__)
