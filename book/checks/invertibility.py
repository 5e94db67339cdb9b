"""Checks of the chapter on what invertibility buys, and the contest: networks, losses, estimates and measurements.

All contestants work in standard variables, in which Wiener's filter is the identity (`invlib.standard`): t for the
unknown and w for its data. So all of them know the affine part, and learn the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import optimize
from torch import Tensor, nn

import invlib
from checks import choosing, local_fields
from checks.ablations import Geometry
from checks.choosing import newton, problem_at
from checks.tools import bumps, rms, seeded
from invlib import ConvIResNet, IResNet, LinearProblem, Samples
from invlib.coupling import CouplingFlow
from invlib.samples import Epochs
from invlib.standard import StandardVariables, standardize
from invlib.training import minimize

Numbers = dict[str, float]
Map = Callable[[Tensor], Tensor]
Loss = Callable[[nn.Module, "Batch"], Tensor]

STORED = Path(__file__).with_suffix(".npz")
"""The measurements: see `book/experiments/invertibility.py`."""

SIZES = (64, 256, 1024, 0)
"""Samples; 0 means `ENDLESS`."""

MEMBERS = 3
"""Seeds: each has samples of its own."""

HELD_OUT = 0.25

ENDLESS = {"plane": 2**17, "chain": 2**13}
"""How many samples stand for an endless supply; a quarter of them is held out, as always.

In the plane each network has its own, and sees none more than twice. On the chain all seeds share them.
"""

TAU = {"plane": 0.15, "chain": 0.1}
"""Noise of denoising score matching, in standard variables."""

LOUDER = choosing.LOUDER


# Networks


class PlainResNet(IResNet):
    """The same network without the bound on its slopes."""

    def effective_weights(self) -> list[Tensor]:
        """Return the weights as they are."""
        return list(self.weights)


class PlainConvNet(ConvIResNet):
    """The same network of convolutions without the bound on its slopes."""

    def effective_kernels(self) -> list[Tensor]:
        """Return the kernels as they are."""
        return [self._kernel(weight, layer) for layer, weight in enumerate(self.weights)]


ResNet = IResNet | ConvIResNet


def calm(net: ResNet, factor: float = 0.07) -> ResNet:
    """Make the last layers small: the network starts near the identity, which is Wiener's filter."""
    with torch.no_grad():
        net.weights[-1].mul_(factor)
    return net


class ConvexGradient(nn.Module):
    r"""The gradient of a convex function of E members: a learned proximal network, dense or of convolutions.

    The function is a sum of $\langle u, h_3\rangle$, $h_{k+1} = \sigma(U_kh_k + V_kw + b_k)$ with the softplus
    $\sigma$, weights $U_k, u \ge 0$, and of a convex quadratic function.

    Args:
        dim: n.
        width: of the hidden layers.
        members: E.
        kernel: None for dense layers, or the size of circular kernels.
        seed: of the first weights.
    """

    def __init__(self, dim: int, width: int, members: int, *, kernel: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.dim, self.width, self.members, self.kernel = dim, width, members, kernel
        generator, inputs, taps = seeded(seed), 1 if kernel else dim, kernel or 1

        def weights(rows: int, columns: int, scale: float, shift: float = 0.0) -> nn.Parameter:
            return nn.Parameter(shift + scale * torch.randn(members, rows, columns, taps, generator=generator))

        layers = 2 if kernel is None else 3
        self.free = nn.ParameterList([weights(width, inputs, (inputs * taps) ** -0.5) for _ in range(layers)])
        log_size = -float(np.log(width * taps))
        self.kept = nn.ParameterList([weights(width, width, 0.5, log_size) for _ in range(layers - 1)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(members, width)) for _ in range(layers)])
        self.top = nn.Parameter(torch.full((members, width), -3.0))
        self.shift = nn.Parameter(torch.zeros(members, inputs))
        self.square = nn.Parameter(torch.full((members, inputs), -0.3))

    def apply_layer(self, weight: Tensor, x: Tensor) -> Tensor:
        """Apply a layer to fields (E, B, channels, sites)."""
        if self.kernel is None:
            return torch.einsum("eoi,ebis->ebos", weight[..., 0], x)
        members, batch = x.shape[:2]
        fields = nn.functional.pad(x.transpose(0, 1).flatten(1, 2), 2 * [self.kernel // 2], mode="circular")
        out: Tensor = nn.functional.conv1d(fields, weight.flatten(0, 1), groups=members)
        found: Tensor = out.unflatten(1, (members, -1)).transpose(0, 1).reshape(members, batch, -1, x.shape[-1])
        return found

    def potential(self, w: Tensor) -> Tensor:
        """Return the convex function at points (E, B, n), (E, B)."""
        x = w.unsqueeze(-1) if self.kernel is None else w.unsqueeze(-2)
        hidden = None
        for layer, (free, bias) in enumerate(zip(self.free, self.biases, strict=True)):
            inner = self.apply_layer(free, x) + bias[:, None, :, None]
            if hidden is not None:
                inner = inner + self.apply_layer(self.kept[layer - 1].exp(), hidden)
            hidden = nn.functional.softplus(inner)
        assert hidden is not None
        linear = torch.einsum("ec,ebcs->eb", self.shift, x)
        square = torch.einsum("ec,ebcs->eb", 0.5 * self.square.exp(), x.square())
        return torch.einsum("ec,ebcs->eb", self.top.exp(), hidden) + linear + square

    def forward(self, w: Tensor) -> Tensor:
        """Return the gradient, (E, B, n)."""
        with torch.enable_grad():
            at = w if w.requires_grad else w.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.potential(at).sum(), at, create_graph=True)
        return gradient


class Flow(nn.Module):
    """The density of `CouplingFlow`, for E members: log p(t) = log N(f(t)) + log|det Df(t)|.

    Args:
        dim: n.
        layers: of each flow.
        width: of their hidden layers.
        members: E.
        seed: of the first weights.
    """

    def __init__(self, dim: int, layers: int, width: int, members: int, seed: int = 0) -> None:
        super().__init__()
        generator = seeded(seed)
        flows = [CouplingFlow(dim, layers=layers, width=width, generator=generator) for _ in range(members)]
        stacked, buffers = torch.func.stack_module_state(flows)
        self.names = list(stacked)
        self.stacked = nn.ParameterList([nn.Parameter(value.detach()) for value in stacked.values()])
        self.masks, self.dim, self.members = buffers, dim, members
        self.one = [flows[0].requires_grad_(requires_grad=False)]  # in a list: its own weights are not trained

    def log_prob(self, t: Tensor) -> Tensor:
        """Return the log-density at points (E, B, n), (E, B), up to a constant."""

        def of(weights: dict[str, Tensor], masks: dict[str, Tensor], points: Tensor) -> Tensor:
            density = _Density(self.one[0])
            state = {f"flow.{name}": value for name, value in {**weights, **masks}.items()}
            found: Tensor = torch.func.functional_call(density, state, (points,))
            return found

        weights = dict(zip(self.names, self.stacked, strict=True))
        found: Tensor = torch.func.vmap(of)(weights, self.masks, t)
        return found

    def forward(self, t: Tensor) -> Tensor:
        """Return the score, (E, B, n)."""
        with torch.enable_grad():
            at = t if t.requires_grad else t.detach().requires_grad_()
            (score,) = torch.autograd.grad(self.log_prob(at).sum(), at, create_graph=True)
        return score


class _Density(nn.Module):
    def __init__(self, flow: CouplingFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, t: Tensor) -> Tensor:
        value, log_det = self.flow.forward_and_log_det(t)
        log_prob: Tensor = log_det - 0.5 * value.square().sum(-1)
        return log_prob


# What they are trained on


@dataclass(frozen=True)
class Batch:
    """Points t, their noisy data w and data without noise, (E, B, n) each; strength, (E,); tau; a generator."""

    t: Tensor
    w: Tensor
    clean: Tensor
    strength: Tensor
    tau: float
    generator: torch.Generator
    gamma: float = 0.0


@dataclass(frozen=True)
class Arena:
    """What E networks are trained on and measured with.

    Attributes:
        kind: "plane" or "chain".
        problems: one for each member.
        sets: the samples of each member.
        standard: their standard variables.
    """

    kind: str
    problems: Sequence[LinearProblem]
    sets: Sequence[Samples]
    standard: StandardVariables

    @cached_property
    def normal(self) -> Tensor:
        """H, (E, n, n)."""
        return torch.stack([problem.normal_operator for problem in self.problems])

    @cached_property
    def noise(self) -> Tensor:
        """The standard deviation of the noise, (E, 1, 1)."""
        return torch.tensor([problem.noise_std for problem in self.problems], dtype=torch.float64)[:, None, None]

    @cached_property
    def strength(self) -> Tensor:
        """The noise level in standard variables, (E,)."""
        return self.noise[:, 0, 0] / self.standard.scale

    @cached_property
    def inner(self) -> Tensor:
        """H in standard variables, (E, n, n)."""
        inverse = torch.linalg.inv(self.standard.root)
        found: Tensor = inverse @ self.normal @ inverse
        return found

    def batch(self, x: Tensor, tau: float, generator: torch.Generator, gamma: float = 0.0) -> Batch:
        """Return points (E, B, n) with fresh noise, in single precision."""
        operators = torch.stack([problem.operator for problem in self.problems])
        noise = torch.randn(*x.shape[:-1], operators.shape[-2], dtype=x.dtype, generator=generator)
        clean = x @ self.normal
        t, w = self.standard.of_core(x, clean + self.noise * noise @ operators)
        _, without = self.standard.of_core(x, clean)
        return Batch(t.float(), w.float(), without.float(), self.strength.float(), tau, generator, gamma)


def plane_geometries() -> list[Geometry]:
    """Return the two bumps with the weak direction at 75 and 100 degrees, and with unequal weights."""
    return [
        Geometry("75°", problem_at(75.0), bumps()),
        Geometry("100°", problem_at(100.0), bumps()),
        Geometry("unequal weights", problem_at(75.0), bumps(0.7)),
    ]


def samples_of(points: Tensor, seed: int) -> Samples:
    """Return a data set with a part held out."""
    return Samples(points, held_out=HELD_OUT, seed=seed)


def plane(size: int, geometries: Sequence[Geometry] | None = None, seed: int = 1) -> Arena:
    """Return the arena in the plane: three seeds of each geometry side by side."""
    geometries = plane_geometries() if geometries is None else geometries
    count, generator = size or ENDLESS["plane"], seeded(seed + size)
    sets = [samples_of(g.prior.sample(count, generator=generator), k) for g in geometries for k in range(MEMBERS)]
    problems = [g.problem for g in geometries for _ in range(MEMBERS)]
    return Arena("plane", problems, sets, standardize(problems, sets, members=len(sets)))


def chain(size: int, points: Tensor) -> Arena:
    """Return the arena on the chain: each seed takes its own part of the points, or all of them."""
    count = size or ENDLESS["chain"]
    parts = [points if size == 0 else points[k * size : (k + 1) * size] for k in range(MEMBERS)]
    sets = [samples_of(part[:count], k) for k, part in enumerate(parts)]
    n = points.shape[-1]
    problems = MEMBERS * [LinearProblem(torch.eye(n), local_fields.NOISE)]
    eye, zero = torch.eye(n, dtype=torch.float64).expand(MEMBERS, n, n), torch.zeros(MEMBERS, n, dtype=torch.float64)
    return Arena("chain", problems, sets, StandardVariables(eye, zero, zero, torch.ones(MEMBERS).double()))


# The contestants: a network, a loss, and a map


def resnet(arena: Arena, seed: int, *, plain: bool) -> ResNet:
    """Return residual networks, with or without the bound."""
    members, generator = len(arena.sets), seeded(seed)
    if arena.kind == "plane":
        return calm((PlainResNet if plain else IResNet)(2, members=members, generator=generator))
    kind = PlainConvNet if plain else ConvIResNet
    net = kind((arena.standard.dim,), blocks=8, channels=16, members=members, generator=generator)
    return calm(net)


def convex(arena: Arena, seed: int) -> ConvexGradient:
    """Return gradients of convex functions with about as many weights."""
    members, n = len(arena.sets), arena.standard.dim
    if arena.kind == "plane":
        return ConvexGradient(n, 57, members, seed=seed)
    return ConvexGradient(n, 16, members, kernel=5, seed=seed)


def flow(arena: Arena, seed: int) -> Flow:
    """Return flows; in the plane with about as many weights."""
    return Flow(arena.standard.dim, 6, 21 if arena.kind == "plane" else 32, len(arena.sets), seed)


def half_square(difference: Tensor) -> Tensor:
    """Return half the mean square, (E,)."""
    return 0.5 * difference.square().sum(-1).mean(-1)


def proximal_matching(net: nn.Module, batch: Batch) -> Tensor:
    """Return proximal matching with the width gamma for each value; the squared error for gamma = 0."""
    square: Tensor = (net(batch.w) - batch.t).square().sum(-1)
    if batch.gamma == 0:
        return 0.5 * square.mean(-1)
    scale = batch.t.shape[-1] * batch.gamma**2
    return scale * (1 - torch.exp(-square / scale)).mean(-1)


def denoising(net: nn.Module, batch: Batch) -> Tensor:
    """Return denoising score matching: the network is the denoiser."""
    noise = torch.randn(batch.t.shape, generator=batch.generator)
    return half_square(net(batch.t + batch.tau * noise) - batch.t)


LOSSES: dict[str, Loss] = {
    "approximation": lambda net, b: half_square(net(b.t) - b.clean),
    "reconstruction": lambda net, b: invlib.reconstruction_loss(net, b.t, b.w),
    "log_det": lambda net, b: invlib.log_det_loss(net, b.t, b.clean, b.strength, generator=b.generator),
    "divergence": lambda net, b: invlib.divergence_loss(net, b.t, b.clean, b.strength, generator=b.generator),
    "direct": lambda net, b: half_square(net(b.w) - b.t),
    "plain": lambda net, b: half_square(net(b.w) - b.t),
    "implicit": lambda net, b: invlib.divergence_loss(net, b.t, b.clean, b.strength, generator=b.generator),
    "denoising": denoising,
    "proximal": proximal_matching,
    "flow": lambda net, b: -net.log_prob(b.t).mean(-1),  # type: ignore[operator]
}
"""Of the contestants: invertible networks with four losses, also laid from data to reconstructions (direct), and five
contestants without a bound on slopes."""

FORWARD = ("approximation", "reconstruction", "log_det", "divergence")
"""Invertible networks from x to z."""

BACKWARD = ("direct", "plain", "proximal", "affine")
"""Maps from data to reconstructions; the others are maps from x to z, and solve an equation."""


def network(method: str, arena: Arena, seed: int) -> nn.Module:
    """Return the untrained networks of a contestant."""
    if method == "affine":
        return nn.Identity()
    if method == "proximal":
        return convex(arena, seed)
    if method == "flow":
        return flow(arena, seed)
    return resnet(arena, seed, plain=method not in (*FORWARD, "direct"))


def wiener(points: Tensor, z: Tensor, noise: float | Tensor) -> Tensor:
    """Return Wiener's filter for signals on a circle, A = 1, with the spectrum of the points."""
    spectrum = torch.fft.fft(points).abs().square().mean(0) / points.shape[-1]
    filtered: Tensor = torch.fft.ifft(torch.fft.fft(z) * spectrum / (spectrum + noise**2)).real
    return filtered


def core_map(method: str, net: nn.Module, arena: Arena) -> Map:
    """Return the map of a contestant in standard variables, t -> w or, for `BACKWARD`, w -> t."""
    noise2 = arena.strength.square()[:, None, None]
    if method == "affine" and arena.kind == "chain":
        return lambda w: torch.stack(
            [wiener(each.training, part, local_fields.NOISE) for each, part in zip(arena.sets, w, strict=True)]
        )
    if method == "flow":
        return lambda t: t @ arena.inner - noise2 * net(t)
    if method == "denoising":
        return lambda t: t @ arena.inner - noise2 * (net(t) - t) / TAU[arena.kind] ** 2
    return net


class Keeper:
    """The loss on points held out, and for each member the weights with the least one."""

    def __init__(self, net: nn.Module, loss: Callable[[], Tensor]) -> None:
        self.net, self.loss, self.looks = net, loss, 0
        self.best = torch.full((1,), float("inf"))
        self.weights = [p.detach().clone() for p in net.parameters()]
        self.kept = torch.zeros(1)

    def __call__(self) -> Tensor:
        """Look: update the best weights, and return the loss, (E,)."""
        with torch.no_grad():
            now = self.loss().detach()
            better = now < self.best
            self.best = torch.where(better, now, self.best)
            self.kept = torch.where(better, torch.tensor(float(self.looks)), self.kept)
            for kept, p in zip(self.weights, self.net.parameters(), strict=True):
                kept[better] = p[better]
        self.looks += 1
        return now

    def restore(self) -> None:
        """Give each member its best weights."""
        with torch.no_grad():
            for kept, p in zip(self.weights, self.net.parameters(), strict=True):
                p.copy_(kept)


@dataclass(frozen=True)
class Training:
    """Of a contestant: seconds of one thread for all members, and when each was best, as a share of the training."""

    seconds: float
    kept: Tensor


def width_of(step: int, steps: int, kind: str) -> float:
    """Return gamma: first the squared error, then a width that halves twice."""
    start = {"plane": 0.8, "chain": 0.4}[kind]
    done = step / steps
    return 0.0 if done < 0.4 else start * 0.5 ** min(2.0, 4 * (done - 0.4) / 0.8)


def train(
    method: str, net: nn.Module, arena: Arena, *, steps: int, rate: float, batch_size: int, seed: int, endless: bool
) -> Training:
    """Train a contestant, with early stopping of each member if its samples are finite."""
    generator = seeded(seed)
    sources = [Epochs(each.training, generator) for each in arena.sets]
    tau, loss = TAU[arena.kind], LOSSES[method]
    held = torch.stack([each.held_out[:1024] for each in arena.sets])
    held = held.repeat(1, -(-512 // held.shape[1]), 1)
    progress = 0

    def batch_loss(step: int) -> Tensor:
        nonlocal progress
        progress = step
        x = torch.stack([source.draw(batch_size) for source in sources])
        return loss(net, arena.batch(x, tau, generator, width_of(step, steps, arena.kind)))

    def held_loss() -> Tensor:
        return loss(net, arena.batch(held, tau, seeded(7), width_of(steps, steps, arena.kind)))

    keeper = Keeper(net, held_loss)
    start = time.process_time()
    options: dict[str, Any] = {} if endless else {"held_out": keeper}
    minimize(net, batch_loss, steps, learning_rate=rate, generator=generator, threads=1, **options)
    if not endless:
        keeper.restore()
    seconds = time.process_time() - start
    net.double().requires_grad_(requires_grad=False)
    return Training(seconds, keeper.kept / max(1, keeper.looks - 1))


# Reconstructions and their derivatives


def with_jacobian(function: Map, points: Tensor, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """Return values and Jacobians, (E, B, n) and (E, B, n, n), of a map that acts point by point, row by row."""
    values, jacobians = [], []
    for part in points.split(chunk, dim=1):
        at = part.detach().requires_grad_()
        with torch.enable_grad():
            value = function(at)
            rows = [
                torch.autograd.grad(value[..., i].sum(), at, retain_graph=i + 1 < value.shape[-1])[0]
                for i in range(value.shape[-1])
            ]
        values.append(value.detach())
        jacobians.append(torch.stack(rows, -2))
    return torch.cat(values, 1), torch.cat(jacobians, 1)


def climb(function: Map, z: Tensor, start: Tensor, step: Tensor, iterations: int = 800) -> tuple[Tensor, Tensor]:
    """Return where x <- x + step (z - function(x)) ends, (E, B, n), and which points solve function(x) = z.

    For function = H - delta^2 score this is gradient ascent of the log-posterior.
    """
    x = start
    with torch.no_grad():
        for _ in range(iterations):
            residual = z - function(x).detach()
            if residual.abs().max() < 1e-6:
                break
            x = (x + step * residual).clamp(-50, 50)
        return x, (z - function(x).detach()).norm(dim=-1) < 1e-4


def ascend(
    function: Map, z: Tensor, start: Tensor, root: Tensor, longest: float = 0.3, iterations: int = 100
) -> tuple[Tensor, Tensor]:
    """Return where an ascent in the plane ends, (E, B, n), and which points solve function(x) = z.

    The residual z - function(x) is the gradient of a log-posterior, or nearly so. In the variables `root` x, whose
    steps have at most the length `longest`, it is divided by the moduli of the curvatures, so every step goes up, away
    from saddles; where all curvatures are positive, it is Newton's step. A step after which the gradient points back
    is followed by one that is halved.
    """
    inverse = torch.linalg.inv(root)
    x, share = start, torch.ones(z.shape[:-1], dtype=z.dtype)
    before = torch.zeros_like(z)
    for _ in range(iterations):
        value, jacobian = with_jacobian(function, x)
        if (z - value).norm(dim=-1).max() < 1e-8:
            break
        up, slope = (z - value) @ inverse, inverse.unsqueeze(1) @ jacobian @ inverse.unsqueeze(1)
        share = torch.where((up * before).sum(-1) < 0, 0.5 * share, (2 * share).clamp(max=1))
        curvatures, axes = torch.linalg.eigh(0.5 * (slope + slope.mT))
        saddle_free = (axes / curvatures.abs().clamp(min=1e-6).unsqueeze(-2)) @ (axes.mT @ up.unsqueeze(-1))
        rises = curvatures[..., :1, None] > 1e-6
        step = torch.where(rises, torch.linalg.pinv(slope) @ up.unsqueeze(-1), saddle_free).squeeze(-1)
        step = share.unsqueeze(-1) * step
        before = step * (longest / step.norm(dim=-1, keepdim=True).clamp(min=longest))
        x = x + before @ inverse
    return x, (z - with_jacobian(function, x)[0]).norm(dim=-1) < 1e-6


@dataclass(frozen=True)
class Contestant:
    """A trained contestant: its map in standard variables, and what follows from it.

    Attributes:
        method: one of `LOSSES`.
        net: the networks, in double precision.
        arena: what they were trained on.
    """

    method: str
    net: nn.Module
    arena: Arena

    @property
    def core(self) -> Map:
        """The map in standard variables."""
        return core_map(self.method, self.net, self.arena)

    def phi(self, x: Tensor) -> Tensor:
        """Return x -> z, H - delta^2 score, for who holds a score, (E, B, n).

        The score of the affine map is that of a Gaussian, so this is the inverse of Wiener's filter.
        """
        v = self.arena.standard
        if self.method == "affine":
            return v.last.value(v.first.value(x))
        return v.last.value(self.core(v.first.value(x)))

    def backward(self, z: Tensor) -> Tensor:
        """Return z -> x for a network that is laid in that direction, (E, B, n)."""
        v = self.arena.standard
        inverse = torch.linalg.inv(v.root)
        w = (z - v.data_mean.unsqueeze(1)) @ inverse / v.scale[:, None, None]
        found: Tensor = v.scale[:, None, None] * self.core(w) @ inverse + v.mean.unsqueeze(1)
        return found

    def solve(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return reconstructions of data (E, B, n), and which of them solve their equation, (E, B)."""
        if self.method in BACKWARD:
            return self.backward(z).detach(), torch.ones(z.shape[:-1], dtype=torch.bool)
        if self.method in FORWARD:
            v = self.arena.standard
            found = self.net.solve_inverse(v.of_core(z, z)[1], tol=1e-9)  # type: ignore[operator]
            x = v.first.solver((found.x,), tol=0.0)(found.x) + v.mean.unsqueeze(1)
            return x, found.converged.expand(z.shape[:-1])
        return self.carried(self.arena.problems, z)

    def slopes(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the derivatives of z -> reconstruction, (E, B, n, n), at data and their reconstructions."""
        if self.method in BACKWARD:
            return with_jacobian(self.backward, z)[1]
        inverse: Tensor = torch.linalg.inv(with_jacobian(self.phi, x)[1])
        return inverse

    def image(self, x: Tensor) -> Tensor:
        """Return x -> z for an invertible network, whichever way it is laid, or from a score, (E, B, n)."""
        if self.method != "direct":
            return self.phi(x).detach()
        v = self.arena.standard
        found: Tensor = v.last.value(self.net.solve_inverse(v.first.value(x), tol=1e-9).x)  # type: ignore[operator]
        return found

    def carried(self, problems: Sequence[LinearProblem], z: Tensor) -> tuple[Tensor, Tensor]:
        """Return reconstructions for other problems from the same training, and which solve their equation.

        phi_rho(x) = z, from Wiener's filter: by ascent. For a proximal network x = f(u), and the unknown is u, in the
        plane by Newton's method. For the affine map Wiener's filter is all.
        """
        H, P = self.arena.normal, self.arena.standard.wiener
        changed = torch.stack([problem.normal_operator for problem in problems])
        noise = torch.tensor([problem.noise_std for problem in problems], dtype=torch.float64)[:, None, None]
        rho = (noise / self.arena.noise) ** 2
        mean = self.arena.standard.mean.unsqueeze(1)
        curvature = changed + rho * (P - H)
        start = mean + (z - mean @ changed) @ torch.linalg.inv(curvature)
        proximal = self.method == "proximal"
        if self.method == "affine":
            if self.arena.kind == "chain":
                pairs = zip(self.arena.sets, z, strict=True)
                start = torch.stack([wiener(each.training, part, noise[0, 0, 0]) for each, part in pairs])
            return start, torch.ones(z.shape[:-1], dtype=torch.bool)

        def equation(unknown: Tensor) -> Tensor:
            if proximal:
                return self.backward(unknown) @ (changed - rho * H) + rho * unknown
            return unknown @ changed - rho * (unknown @ H - self.phi(unknown))

        if proximal:
            start = mean @ H + (start - mean) @ P
        if self.arena.kind == "chain":
            found, solved = climb(equation, z, start, 1 / rho if proximal else 1 / (1 + 30 * rho))
        elif proximal:
            found, solved = newton(lambda unknown: with_jacobian(equation, unknown), z, start, 60)
        else:
            values, axes = torch.linalg.eigh(curvature)
            found, solved = ascend(equation, z, start, axes * values.sqrt().unsqueeze(-2) @ axes.mT)
        return self.backward(found).detach() if proximal else found, solved


CARRIED = ("divergence", "implicit", "denoising", "proximal", "flow", "affine")
"""Contestants that know the score, the affine map that of a Gaussian: they can be carried to other problems."""

ASCENT = ("implicit", "denoising", "flow")
"""Those that reconstruct by ascent without a guarantee that it ends at a solution."""


# Measurements


@dataclass(frozen=True)
class Trial:
    """Test data of E members with exact estimates, (E, B, n) each.

    Attributes:
        problems: one for each member.
        x: the truth.
        z: the data.
        mean: the posterior means.
        mode: the MAP estimates.
    """

    problems: Sequence[LinearProblem]
    x: Tensor
    z: Tensor
    mean: Tensor
    mode: Tensor

    @cached_property
    def apart(self) -> Tensor:
        """The yardstick: the distance of MAP estimate and mean, (E,)."""
        return rms(self.mode - self.mean)


def plane_trial(geometries: Sequence[Geometry], count: int, seed: int = 3, members: int = MEMBERS) -> Trial:
    """Return test data in the plane."""
    rows = []
    for g in geometries:
        x, z = g.data(count, seed)
        rows.append((x, z, g.mean(z), invlib.map_estimate(g.problem, g.prior, z)))
    parts = [torch.stack(part).repeat_interleave(members, 0) for part in zip(*rows, strict=True)]
    return Trial([g.problem for g in geometries for _ in range(members)], *parts)


def chain_trial(count: int, ratio: float = 1.0) -> Trial:
    """Return test data on the chain, with another noise level."""
    field, generator = local_fields.Field(64), seeded(99)
    x = local_fields.exact_samples(field, count, generator, group=count)
    noise = ratio * local_fields.NOISE
    z = x + noise * torch.randn(x.shape, dtype=x.dtype, generator=generator)
    parts = (x, z, local_fields.exact_mean(field, z, noise), local_fields.exact_map(field, z, noise))
    problem = LinearProblem(torch.eye(64), noise)
    return Trial(MEMBERS * [problem], *(part.expand(MEMBERS, -1, -1) for part in parts))


def other_operator(geometry: Geometry) -> Geometry:
    """Return the geometry with an operator of three rows that no network has seen."""
    other = LinearProblem([[0.6, 0.2], [-0.3, 0.5], [0.2, 0.4]], 0.18)
    return Geometry(geometry.name, other, geometry.prior)


def louder(geometry: Geometry) -> Geometry:
    """Return the geometry with more noise."""
    return Geometry(
        geometry.name, LinearProblem(geometry.problem.operator, LOUDER * geometry.problem.noise_std), geometry.prior
    )


def measure(contestant: Contestant, trial: Trial, others: dict[str, Trial]) -> dict[str, Tensor]:
    """Return what is measured, (E,) each.

    Errors against truth, mean and MAP are root mean squares of the distance, over all data; `forward` is in standard
    deviations of the noise; `skew` is the mean of |D - D*|/|D + D*| for the derivative D of z -> reconstruction;
    `folds` is the share of data, in per cent, where the symmetric part of D is not positive; `steep` is the largest
    derivative with respect to y: these three over the data whose equation was solved. `late` is the share, in per
    cent, of those that were not. `bent` is the share of the test points x where the symmetric part of the derivative of
    x -> z is not positive. Times are seconds for each datum.
    """
    members, count, n = trial.x.shape
    start = time.process_time()
    x, solved = contestant.solve(trial.z)
    seconds = time.process_time() - start
    start = time.process_time()
    D = contestant.slopes(x, trial.z)
    bar = time.process_time() - start
    operators = torch.stack([problem.operator for problem in trial.problems]).unsqueeze(1)
    least = torch.linalg.eigvalsh(0.5 * (D + D.mT))[..., 0]
    skew = torch.linalg.matrix_norm(D - D.mT) / torch.linalg.matrix_norm(D + D.mT)
    found = {
        "truth": rms(x - trial.x),
        "mean": rms(x - trial.mean),
        "map": rms(x - trial.mode),
        "skew": (skew * solved).sum(-1) / solved.sum(-1),
        "folds": 100 * ((least <= 0) & solved).sum(-1) / solved.sum(-1),
        "steep": (torch.linalg.matrix_norm(D @ operators.mT, 2) * solved).amax(-1),
        "late": 100 * (~solved).double().mean(-1),
        "inverse_seconds": torch.full((members,), seconds / (members * count)),
        "bar_seconds": torch.full((members,), bar / (members * count)),
        "forward": torch.full((members,), float("nan")),
    }
    if contestant.method not in BACKWARD and n == 2:
        slopes = with_jacobian(contestant.phi, trial.x)[1]
        found["bent"] = 100 * (torch.linalg.eigvalsh(0.5 * (slopes + slopes.mT))[..., 0] <= 0).double().mean(-1)
    if contestant.method in (*FORWARD, "direct", *ASCENT) or (n == 2 and contestant.method == "affine"):
        miss = contestant.image(trial.x) - trial.x @ contestant.arena.normal
        white = torch.linalg.solve_triangular(torch.linalg.cholesky(contestant.arena.normal), miss.mT, upper=False)
        found["forward"] = rms(white.mT) / (contestant.arena.noise[:, 0, 0] * n**0.5)
    for name, other in others.items():
        same = torch.equal(other.problems[0].operator, trial.problems[0].operator)
        if contestant.method in CARRIED:
            there, arrived = contestant.carried(other.problems, other.z)
            found[f"{name}_late"] = 100 * (~arrived).double().mean(-1)
        elif same:
            there = contestant.solve(other.z)[0]
        else:
            continue
        found |= {f"{name}_mean": rms(there - other.mean), f"{name}_map": rms(there - other.mode)}
    return found


def exact_errors(trial: Trial) -> dict[str, Tensor]:
    """Return the errors of the exact estimators against the truth, and their distance, (E,) each."""
    return {"mean": rms(trial.mean - trial.x), "map": rms(trial.mode - trial.x), "apart": trial.apart}


Results = dict[str, dict[int, dict[str, Tensor]]]
"""By contestant, number of samples and measure, (geometries, seeds) each."""


def results(kind: str) -> Results:
    """Return what is stored of an arena, and, as a measure, the seconds of each training.

    Under "exact" and 0 are the errors of the exact estimators.
    """
    found: Results = {}
    with np.load(STORED) as file:
        measures = file[f"{kind}/measures"].tolist()
        keys = [key for key in file.files if key.startswith(f"{kind}/") and key.count("/") == 2]
        for key, seconds in zip(keys, [*file[f"{kind}/seconds"], 0.0], strict=True):  # the last one is exact
            _, method, size = key.split("/")
            rows = torch.from_numpy(file[key]).double().reshape(len(measures), -1, MEMBERS)
            known = {name: row for name, row in zip(measures, rows, strict=True) if not row.isnan().all()}
            found.setdefault(method, {})[int(size)] = known | {"seconds": torch.full(rows.shape[1:], float(seconds))}
    return found


# Which reconstructions some prior explains


def derivative(function: Map, z: Tensor, step: float = 1e-4) -> Tensor:
    """Return central differences of a map at points (B, n), (B, n, n)."""
    shifts = step * torch.eye(z.shape[-1], dtype=z.dtype)
    columns = [(function(z + shift) - function(z - shift)) / (2 * step) for shift in shifts]
    return torch.stack(columns, -1)


@dataclass(frozen=True)
class ConvexPotential:
    """Psi(z) = |z|^2 m / 2 + log sum exp(<a_k, z> + b_k): slopes of its gradient lie between two positive numbers."""

    slopes: Tensor
    offsets: Tensor
    least: float = 0.4

    def __call__(self, z: Tensor) -> Tensor:
        """Return values at points (..., n), (...)."""
        return 0.5 * self.least * z.square().sum(-1) + torch.logsumexp(z @ self.slopes.mT + self.offsets, -1)

    def gradient(self, z: Tensor) -> Tensor:
        """Return r = grad Psi at points (..., n)."""
        return self.least * z + torch.softmax(z @ self.slopes.mT + self.offsets, -1) @ self.slopes

    def conjugate(self, x: np.ndarray) -> float:
        """Return the largest <z, x> - Psi(z), which scipy searches from values and gradients."""

        def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
            at = torch.from_numpy(z)
            return float(self(at)) - float(z @ x), self.gradient(at).numpy() - x

        return -float(optimize.minimize(objective, x, jac=True, method="BFGS", options={"gtol": 1e-9}).fun)


def random_potential(dim: int, seed: int) -> ConvexPotential:
    """Return a random one."""
    generator = seeded(seed)
    slopes = torch.randn(4, dim, dtype=torch.float64, generator=generator)
    return ConvexPotential(slopes, torch.randn(4, dtype=torch.float64, generator=generator))


def circuit(function: Map, points: Tensor) -> float:
    """Return the sum of <r(z_i), z_(i+1) - z_i> around the points (B, n): never positive for a minimizer of any J_z."""
    return float((function(points) * (points.roll(-1, 0) - points)).sum())


def skew_of_estimators(geometry: Geometry, generator: torch.Generator) -> tuple[float, float]:
    """Return the largest skew entry of the derivatives of exact estimators, relative to the largest entry.

    Also of the posterior mean for a prior of 30 points, without a density. And verify that no eigenvalue is negative.
    Second, the least ratio of the two sides of part 3 for random matrices against these derivatives, which are
    differences and need not be symmetric.
    """
    problem, prior = geometry.problem, geometry.prior
    points, H = prior.sample(30, generator=generator), problem.normal_operator

    def of_points(z: Tensor) -> Tensor:
        fit = (z @ points.mT - 0.5 * ((points @ H) * points).sum(-1)) / problem.noise_std**2
        return torch.softmax(fit, -1) @ points

    def modes(z: Tensor) -> Tensor:
        return invlib.map_estimate(problem, prior, z)

    skews, ratios, data = [], [], 0.5 * torch.randn(20, 2, dtype=torch.float64, generator=generator) @ H
    for estimate in (geometry.mean, modes, of_points):
        D = derivative(estimate, data, 1e-5)
        skews.append(float((D - D.mT).abs().max() / D.abs().max()))
        assert torch.linalg.eigvalsh(0.5 * (D + D.mT)).min() > -1e-5 * D.abs().max()
        turned = D + torch.randn(D.shape, dtype=D.dtype, generator=generator)
        ratios.append(float((torch.linalg.matrix_norm(turned - D) / turning(turned)).min()))
    return max(skews), min(ratios)


def turning(D: Tensor) -> Tensor:
    """Return |D - D*|/2, (...)."""
    found: Tensor = 0.5 * torch.linalg.matrix_norm(D - D.mT)
    return found


def minimizer(psi: ConvexPotential, H: np.ndarray, datum: np.ndarray) -> np.ndarray:
    """Return the minimizer of J_z for the penalty of part 2, from values only."""

    def penalty(x: np.ndarray) -> float:  # delta^2 R
        return psi.conjugate(x) - 0.5 * float(x @ H @ x)

    def objective(x: np.ndarray) -> float:
        return 0.5 * float(x @ H @ x) - float(datum @ x) + penalty(x)

    options = {"xatol": 1e-7, "fatol": 1e-13}
    found: np.ndarray = optimize.minimize(objective, np.zeros(2), method="Nelder-Mead", options=options).x
    return found


def check_iv_bayes() -> Numbers:
    """Differences of exact estimators, and a penalty that is built from a map.

    Part 1: MAP estimates and means for the geometries of the contest; skew parts vanish to the error of differences.
    Part 2: the penalty R by scipy's conjugate of Psi; scipy's minimizer of J_z, which knows values of R only, against
    grad Psi. Part 3: random matrices against the differences of part 1.
    """
    generator = seeded(3)
    found = [skew_of_estimators(geometry, generator) for geometry in plane_geometries()]
    skew, ratio = max(each[0] for each in found), min(each[1] for each in found)
    assert skew < 1e-5
    assert ratio > 1 - 1e-5

    gap, H = 0.0, np.diag([0.5, 0.9])
    z = torch.randn(3, 2, dtype=torch.float64, generator=generator)
    for seed in range(3):
        psi = random_potential(2, seed)
        least = np.stack([minimizer(psi, H, datum) for datum in z.numpy()])
        gap = max(gap, float(np.abs(least - psi.gradient(z).numpy()).max()))
    assert gap < 1e-5
    return {"skew": skew, "gap": gap}


def control_iv_bayes() -> Numbers:
    """Break the symmetry of Dr: a gradient plus a small rotation, still strongly monotone.

    The sum around a circle of data is positive, which it is for no minimizer of any J_z; for the gradient
    alone it is negative. A map that is no such minimizer comes nearer to it than part 3 allows to them. And a
    symmetric Dr with a negative eigenvalue: two data suffice.
    """
    psi = random_potential(2, 5)
    turn = torch.tensor([[0.0, -0.15], [0.15, 0.0]], dtype=torch.float64)
    angles = 2 * np.pi * torch.arange(400, dtype=torch.float64) / 400
    circle = 0.5 * torch.stack([angles.cos(), angles.sin()], -1)

    def turned(z: Tensor) -> Tensor:
        return psi.gradient(z) + z @ turn

    sums = {sign: circuit(turned, circle if sign > 0 else circle.flip(0)) for sign in (1, -1)}
    D = derivative(turned, circle)
    least = float(torch.linalg.eigvalsh(0.5 * (D + D.mT)).min())
    assert max(sums.values()) > 0.05 > 0 > circuit(psi.gradient, circle)
    assert least > 0.3
    nearby = derivative(lambda z: psi.gradient(z) + 0.8 * z @ turn, circle)
    assert (torch.linalg.matrix_norm(D - nearby) < 0.5 * turning(D)).all()
    folded = circuit(lambda z: z * torch.tensor([1.0, -1.0]).double(), torch.tensor([[0.0, 1.0], [0.0, -1.0]]).double())
    assert folded > 0
    return {"sum": max(sums.values()), "least": least}
