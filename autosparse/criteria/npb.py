"""NPB: node-path balancing (Pham et al. 2023, pvh1602/NPB), solved for any width and any groups."""

import contextlib
import math
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array, hstack, vstack
from torch import Tensor, nn

from autosparse.criteria.base import Scoring
from autosparse.criteria.data_free import erk_counts
from autosparse.criteria.flow import Call, Embedding, Named, absolute, call_with_ones, evaluating, flow, in_double
from autosparse.criteria.gradient import restoring_modules
from autosparse.distributed import broadcast
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask, keep_top_each
from autosparse.pruning.prunable import canonical, unwrapped
from autosparse.seeds import stream

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Kept: TypeAlias = NDArray[np.bool_]
"""A mask of a layer: (group, input, output, position in the kernel)."""
_PROBLEM = "npb cannot prune this network"
_LARGE = 128 * 128  # kernels
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_COUNTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
# Paths go through these modules unchanged. Pooling takes their mean or their largest.
_TRANSPARENT = (
    *(nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.Sigmoid, nn.Hardsigmoid, nn.Softplus, nn.Softmax, nn.LogSoftmax),
)


@dataclass(frozen=True)
class NPB:
    """Layer by layer from the input, the weights that maximize α f_n + (1 - α) f_p + β f_k.

    f_n is the fraction of the layer's input and output channels that have a weight, f_p the number of paths from the
    input through the layer over the most that its weights could carry, f_k the number of kernels in use over that of
    its weights. A layer keeps as many weights as `erk_counts` says. Which of the equally good weights they are is drawn
    from the seed. After the last layer, weights on no path to the outputs move to the places of their layer with the
    most paths.

    Ours: the authors solve for a whole matrix of kernels, large layers in pieces; `balance` solves a small problem with
    the same optimum, which makes any width and any groups tractable. They name layers of their networks; here the paths
    into a layer are counted when the network calls it. They move idle weights into the fullest kernels. Their f_n also
    counts input channels that no path enters; their cap falls by 2 at stages of VGG and, while above 5, at shortcuts of
    ResNet, ours stays; they cut linear layers, too, by 10 outputs.

    Looks at no batch except for the shape of an input; costs a small linear program per layer, time linear in the
    number of weights, and two passes of one sample in float64.

    Attributes:
        seed: seed of the choice among equally good weights.
        alpha: α, the weight of nodes against paths. 0.99 is the default of the authors' code for any network; its two
            published commands, ResNet-20 on CIFAR-10 and ResNet-18 on Tiny-ImageNet, take 0.01.
        beta: β, the weight of kernels in use; 0 is the formula of their paper alone. 0.001 is the default of their
            code; those commands take 1 and 2.
        cap: largest number of weights of a kernel before idle ones move, except in the first layer and if a layer keeps
            more; no cap if None. Their default is 5; those commands take 9, all of a 3 × 3 kernel, and 6.
        chunk: layers of more than 128² kernels are solved for this many outputs at a time, each part keeping its
            fraction of the layer's weights; whole if None. Their default is 32; the second command takes 16.
    """

    seed: int
    alpha: float = 0.99
    beta: float = 0.001
    cap: int | None = None
    chunk: int | None = None

    def choose(self, model: nn.Module, mask: Mask, scoring: Scoring, k: int) -> Mask:
        """Return a mask of `k` weights; see `select`."""
        layout = mask.layout
        if mask.count != layout.size:
            raise UserError("npb prunes a whole network; this one has been pruned already")
        call, embedding = call_with_ones("npb", model, scoring, mask.kept.device)
        model, counts = unwrapped(model), erk_counts(layout, k, [layer.size for layer in layout.layers])
        state = in_double(
            model, lambda name, tensor: tensor.zero_() if name.endswith("bias") else absolute(name, tensor)
        )
        with restoring_modules(model):
            _count_paths(model)
            self._keep_layers(model, _modules(model, layout), state, call, embedding, counts)
            paths = flow("npb", model, layout, state, call, embedding)
        scores = torch.empty(layout.size, dtype=torch.float32, device=mask.kept.device)
        for name, part in layout.unflatten(scores).items():
            kept, through = state.pop(name).detach() > 0, paths.pop(name)
            on_path = through > 0
            part.copy_(through.div_(through.amax().clamp_min(torch.finfo(torch.float64).tiny)))
            # From the highest: kept and on a path, on a path if it were kept, kept on no path, neither.
            part.add_(1.0).masked_fill_(kept, 3.0)
            part.masked_fill_(~on_path & kept, 0.5).masked_fill_(~on_path & ~kept, 0.0)
        return keep_top_each(broadcast(scores), counts, mask)

    def _keep_layers(
        self,
        model: nn.Module,
        modules: dict[str, nn.Module],
        state: Named,
        call: Call,
        embedding: Embedding | None,
        counts: list[int],
    ) -> None:
        """Set weights in `state` to 1 if they are kept and to 0 if not, each layer as the network calls it."""
        generator = np.random.Generator(np.random.PCG64(stream("npb", self.seed)))
        waiting = dict(zip(modules, counts, strict=True))

        def keep(name: str, module: nn.Module, inputs: Tensor) -> None:
            if name not in waiting:  # a layer that is called again
                return
            channels = Channels.of(module, tuple(state[name].shape))
            channel = -1 if isinstance(module, nn.Linear) else 1
            paths = inputs.movedim(channel, 0).flatten(1).sum(1, dtype=torch.float64).cpu().numpy()
            cap = self.cap if len(waiting) < len(modules) else None
            count = waiting.pop(name)
            if len(paths) != (wanted := channels.groups * channels.inputs):
                raise UserError(f"{_PROBLEM}: layer {name} has {wanted} input channels and is given {len(paths)}")
            if not paths.any() and all(counts):
                raise UserError(f"{_PROBLEM}: no path leads from the input to layer {name}")
            kernels = self.keep_layer(channels, paths, count, cap, generator)
            if not isinstance(module, _TRANSPOSED):
                kernels = kernels.swapaxes(1, 2)
            state[name].copy_(torch.from_numpy(kernels.reshape(state[name].shape)))

        with torch.no_grad(), evaluating("npb", model, state, embedding), contextlib.ExitStack() as hooks:
            for name, module in modules.items():
                hook = module.register_forward_pre_hook(
                    lambda module, inputs, named, name=name: keep(name, module, next(iter((*inputs, *named.values())))),
                    with_kwargs=True,
                )
                hooks.callback(hook.remove)
            call(model)
        if waiting:
            raise UserError(f"{_PROBLEM}: it does not call layer {next(iter(waiting))} as a module")

    def keep_layer(
        self, channels: "Channels", paths: Floats, count: int, cap: int | None, generator: np.random.Generator
    ) -> Kept:
        """Return the mask of a layer, solved as a whole or in pieces; arguments and result as of `balance` and `deal`.

        A piece has `chunk` outputs of each group, the last maybe fewer.
        """
        step = self.chunk if self.chunk and channels.kernels > _LARGE else channels.outputs
        kept, before = [], 0
        for start in range(0, channels.outputs, step):
            stop = min(start + step, channels.outputs)
            piece, through = replace(channels, outputs=stop - start), count * stop // channels.outputs
            kept.append(deal(piece, balance(piece, paths, through - before, self.alpha, self.beta, cap), generator))
            before = through
        return np.concatenate(kept, axis=2)


def _count_paths(model: nn.Module) -> None:
    """Let normalizations and activations return their inputs."""
    for module in model.modules():
        if isinstance(
            module, _TRANSPARENT
        ):  # not by a hook: a module that works in place has changed its input by then
            vars(module)["forward"] = lambda inputs: inputs


def _modules(model: nn.Module, layout: Layout) -> dict[str, nn.Module]:
    """Return the modules that the layers are the weights of, by the layer's name, in layout order."""
    modules = {canonical(path): module for path, module in model.named_modules(remove_duplicate=False)}
    owners = {}
    for layer in layout.layers:
        path, _, short = layer.name.rpartition(".")
        owners[layer.name] = owner = modules[path]
        if not isinstance(owner, _COUNTED) or short != "weight":
            raise UserError(
                f"{_PROBLEM}: layer {layer.name} belongs to a {type(owner).__name__}, "
                "no linear layer or convolution; exclude= leaves it dense, synflow and snip take it"
            )
    return owners


@dataclass(frozen=True)
class Channels:
    """The kernels of a layer: one from each input to each output of a group, in each of its groups."""

    groups: int
    inputs: int
    outputs: int
    kernel: int  # number of weights of a kernel

    @classmethod
    def of(cls, module: nn.Module, shape: tuple[int, ...]) -> "Channels":
        """Return the channels of a linear layer or a convolution, whose weight has this shape."""
        groups = int(getattr(module, "groups", 1))
        ends = (shape[0], shape[1] * groups) if isinstance(module, _TRANSPOSED) else (shape[1] * groups, shape[0])
        return cls(groups, ends[0] // groups, ends[1] // groups, math.prod(shape[2:]))

    @property
    def kernels(self) -> int:
        """Number of kernels."""
        return self.groups * self.inputs * self.outputs


def balance(
    channels: Channels, paths: Floats, count: int, alpha: float, beta: float, cap: int | None = None
) -> Integers:
    """Return the number of weights of each input channel that maximizes α f_n + (1 - α) f_p + β f_k.

    Only the sums matter: with r weights of one input dealt evenly over the outputs, as `deal` does, min(r, outputs) of
    its kernels are in use and min(all, outputs) of the outputs, whatever the other inputs have, and no other way of
    dealing gives more of either. So the matrix of kernels is replaced by its row sums, and inputs of a group with the
    same number of paths, which are interchangeable, share one number of weights evenly. Its value is concave and
    piecewise linear: the first weight of each input, the first of each further kernel, the others. The rest is a linear
    program over these three numbers for each count of paths, and the outputs in use of each group.

    `paths` is the number of paths into each input channel, (groups * inputs,), and `count` the number of weights to
    place. The result adds up to `count`, with none above outputs * kernel, or outputs * cap where `count` allows it.
    """
    full = channels.kernel if cap is None else min(channels.kernel, max(cap, -(-count // channels.kernels)))
    most = channels.outputs * full
    paths = np.round(paths / max(paths.max(), np.finfo(float).tiny), 9)
    group = np.repeat(np.arange(channels.groups), channels.inputs)
    kinds, kind, members = np.unique(np.stack([group, paths]), axis=1, return_inverse=True, return_counts=True)
    home, entering = kinds[0].astype(int), kinds[1]

    highest = np.sort(paths)[::-1]
    carried = highest @ np.clip(count - most * np.arange(len(highest)), 0, most)  # the most paths: the best inputs full
    node = alpha * count / (len(paths) + channels.groups * channels.outputs)  # all times count, to be near 1
    path = (1 - alpha) * count * entering / max(carried, np.finfo(float).tiny)
    gains = [path + beta + node * (entering > 0), path + beta, path, np.full(channels.groups, node)]
    room = [members, members * (channels.outputs - 1), members * channels.outputs * (full - 1)]
    room.append(np.full(channels.groups, channels.outputs))

    n = len(members)
    placed = np.concatenate([np.ones(3 * n), np.zeros(channels.groups)])[None]
    fed = coo_array(((entering > 0).astype(float), (home, np.arange(n))), shape=(channels.groups, n))
    in_use = hstack([fed, fed, fed, coo_array(-np.eye(channels.groups))])
    solution = milp(
        -np.concatenate(gains),
        integrality=np.ones(3 * n + channels.groups),
        bounds=Bounds(0, np.concatenate(room).astype(float)),
        constraints=LinearConstraint(
            csr_array(vstack([csr_array(placed), in_use])),
            [count] + [0] * channels.groups,
            [count] + [np.inf] * channels.groups,
        ),
    )
    totals = np.rint(solution.x[: 3 * n].reshape(3, n).sum(0)).astype(np.int64)
    kind = kind.reshape(-1)
    position = np.empty_like(kind)  # of an input among those of its kind
    position[np.argsort(kind, kind="stable")] = np.arange(len(kind)) - np.repeat(np.cumsum(members) - members, members)
    return totals[kind] // members[kind] + (position < totals[kind] % members[kind])


def deal(channels: Channels, units: Integers, generator: np.random.Generator) -> Kept:
    """Return a mask of a layer in which input channel i has `units[i]` weights, spread evenly over the outputs.

    An input gives each output the same number, and the rest to those outputs that have least so far. The generator
    draws among equals, and the positions within a kernel.
    """
    kept = np.zeros((channels.groups, channels.inputs, channels.outputs, channels.kernel), np.bool_)
    for g, rows in enumerate(units.reshape(channels.groups, channels.inputs)):
        load = np.zeros(channels.outputs, np.int64)
        for i in np.flatnonzero(rows):
            quotient, rest = divmod(int(rows[i]), channels.outputs)
            sums = np.full(channels.outputs, quotient)
            if rest:
                sums[np.argpartition(load + generator.random(channels.outputs), rest - 1)[:rest]] += 1
            load += sums
            drawn = generator.random((channels.outputs, channels.kernel)).argsort(1).argsort(1)
            kept[g, i] = drawn < sums[:, None]
    return kept
