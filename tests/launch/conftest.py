"""Slurm's commands that only answer, as in tests/cluster."""

from tests.cluster.conftest import commands

__all__ = ["commands"]
