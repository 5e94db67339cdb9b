"""Convolutional networks on grids: a training step, and the inverse beside the plain fixed-point iteration."""

import time
from collections.abc import Callable

import peers
import torch
from common import LIPSCHITZ, STRENGTH, Row, Topic, check, interleaved, seeded, threads
from torch import Tensor

from invlib import ConvIResNet, divergence_loss, log_det_loss
from invlib.convolution import ConvBlock

GRIDS = [(64,), (28, 28), (256, 256)]
TOLERANCE = 1e-6


def convolution(quick: bool) -> Topic:
    """Time a training step and the inverse of one picture; count the evaluations of blocks."""
    rows: list[Row] = []
    checks: list[Row] = []
    for shape in GRIDS[:2] if quick else GRIDS:
        with threads(1):
            row = {"points": len(torch.zeros(shape).flatten())} | _training_step(shape, quick) | _inversion(shape)
        rows.append(row)
        checks.append(check(f"evaluations / fixed point, {row['points']} points", row["evaluations / this"], 0.2))
    title = "Convolutional networks, 5 blocks of 16 channels, kernels 3, 1, 3, one thread"
    return {"title": title, "rows": rows, "checks": checks}


def _training_step(shape: tuple[int, ...], quick: bool) -> Row:
    """Time the losses with the divergence and the log-determinant, both estimated, with their gradients."""
    net = ConvIResNet(shape, generator=seeded())
    batch = max(1, 64 * 64 // net.dim)
    x = torch.randn(batch, net.dim, generator=seeded(1))

    def divergence() -> None:
        net.zero_grad()
        divergence_loss(net, x, x, STRENGTH, generator=seeded(2)).backward()

    def log_det() -> None:
        net.zero_grad()
        log_det_loss(net, x, x, STRENGTH, generator=seeded(2)).backward()

    tasks = {"divergence ms": divergence, "log-det ms": log_det}
    if peers.normflows and len(shape) == 2:
        tasks["normflows, log-det ms"] = _peer_step(x.reshape(batch, 1, *shape))
    times = interleaved(tasks, 2 if quick else 7)
    row: Row = {"batch": batch} | {name: 1e3 * seconds for name, seconds in times.items()}
    if "normflows, log-det ms" in times:
        row["invlib / normflows"] = times["log-det ms"] / times["normflows, log-det ms"]
    return row


def _peer_step(pictures: Tensor) -> Callable[[], None]:
    """The loss with the log-determinant and its gradient, for a convolutional flow of normflows."""
    flow = peers.normflows_pictures()

    def step() -> None:
        flow.zero_grad()
        x, total = pictures, torch.zeros(())
        for layer in flow:
            x, log_det = layer(x)
            total = total + log_det
        misfit = 0.5 * (x - pictures).square().sum((1, 2, 3)).mean()
        (misfit - STRENGTH**2 * total.mean()).backward()

    return step


def _inversion(shape: tuple[int, ...]) -> Row:
    """The inverse of one picture through blocks whose slopes come close to the bound, to a relative residual 1e-6."""
    net = steep_network(shape)
    with torch.no_grad():
        z = net(torch.randn(1, net.dim, dtype=torch.float64, generator=seeded(3)))
        size = float(z.norm())
        newton, newton_seconds = _counted(lambda: net.solve_inverse(z, tol=TOLERANCE).raise_unless_converged())
        fixed, fixed_seconds = _counted(lambda: _fixed_point(net, z, TOLERANCE * size))
    peer: Row = {}
    if peers.normflows:
        with torch.no_grad():
            _, peer["normflows inverse s"] = _counted(lambda: _peer_inverse(net, z, TOLERANCE * size))
    return peer | {
        "inverse s": newton_seconds,
        "fixed point s": fixed_seconds,
        "evaluations": newton,
        "of the fixed point": fixed,
        "evaluations / this": newton / fixed,
    }


def steep_network(shape: tuple[int, ...]) -> ConvIResNet:
    """Return a network whose blocks fold the values, a little mixed with their neighbours, with slopes near the bound.

    The worst case for the fixed-point iteration, as the folds of the dense networks.
    """
    net = ConvIResNet(shape, lipschitz=LIPSCHITZ, dtype=torch.float64, generator=seeded())
    centre = 3 ** len(shape) // 2
    with torch.no_grad():
        for weight in net.weights:
            weight.zero_()
        net.weights[0][..., 0, :] = -5.0
        net.weights[0][..., 0, centre] = 1e3
        net.weights[1][..., 0, 0] = 1.0
        net.weights[2][..., centre] = -1.0  # the kernel of the first channel
        net.biases[0].mul_(300)
        net.biases[1].fill_(1.0)
    return net


def _fixed_point(net: ConvIResNet, z: Tensor, tol: float) -> None:
    """The iteration x <- z - f(x) for one block after the other, each to its share of the tolerance."""
    share = tol / net.depth
    for block in reversed(net.residual_blocks()):
        target = z.unsqueeze(0)
        x = target
        while float((residual := block.value(x) - target).norm()) > share:
            x = x - residual
        z, share = x[0], share / (1 + LIPSCHITZ)


def _peer_inverse(net: ConvIResNet, z: Tensor, tol: float) -> None:
    """The inverse of normflows for the same blocks, with the same shares of the tolerance."""
    share = tol / net.depth
    for block in reversed(net.residual_blocks()):
        z = peers.normflows_tightened(_Branch(block), z, share / z.numel() ** 0.5)
        share = share / (1 + LIPSCHITZ)


class _Branch(torch.nn.Module):
    """The map x -> f(x) of a block x + f(x)."""

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block.value(x.unsqueeze(0))[0] - x


def _counted(function: object) -> tuple[int, float]:
    """How often blocks were evaluated, values and tangents alike, and the seconds."""
    count = 0
    originals = {name: getattr(ConvBlock, name) for name in ("linearize", "branch_tangent")}

    def counting(original: object) -> object:
        def counted(*arguments: object) -> object:
            nonlocal count
            count += 1
            return original(*arguments)

        return counted

    for name, original in originals.items():
        setattr(ConvBlock, name, counting(original))
    try:
        start = time.perf_counter()
        function()
        return count, time.perf_counter() - start
    finally:
        for name, original in originals.items():
            setattr(ConvBlock, name, original)
