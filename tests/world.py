"""Processes that are one world, forked from a server that has imported PyTorch already: each starts in milliseconds."""

import gc
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.conftest", "autosparse.irp", "torch._dynamo", "torch.distributed.fsdp"])


def world(size: int, work: Callable[..., object], *arguments: object) -> list[Any]:
    """Return the result of `work`, a function of a module, in each process, or the traceback that ended it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        group["TORCHELASTIC_RUN_ID"] = "none"  # as under torchrun: other processes take no world from the environment
    ends = []
    for rank in range(size):
        end, far = FORKS.Pipe(duplex=False)
        own = {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        FORKS.Process(target=_member, args=(far, own, work, arguments), daemon=True).start()
        far.close()
        ends.append(end)
    return [end.recv() for end in ends]


def _member(end: Connection, group: dict[str, str], work: Callable[..., object], arguments: tuple[object, ...]) -> None:
    gc.freeze()  # Collections skip what the server has imported.
    os.environ.update(group)
    torch.set_num_threads(1)
    try:
        end.send(work(*arguments))
    except BaseException:
        end.send(traceback.format_exc())
