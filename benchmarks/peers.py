"""Other people's invertible residual networks, and the same network in plain `torch.func`.

What the peers offer, read from their sources:

* normflows 1.7.3, `Residual(LipschitzMLP)`: swish, one limit for each *layer*, power iteration that the user has to
  start (`update_lipschitz`). Exact log-determinant in two dimensions (`brute_force=True`), otherwise a roulette series.
  Inverse by fixed-point iteration; its tolerance of 1e-5 is compared with the squared step.
* FrEIA 0.2, `IResNetLayer`: ELU, power iteration on demand (`lipschitz_correction`). The log-determinant is a 20-term
  Hutchinson series *without a gradient*; there is no exact one. Inverse by 50 fixed-point steps, unchecked.
"""

import importlib
import importlib.metadata
from collections.abc import Callable
from types import ModuleType

import torch
from common import BLOCKS, LIPSCHITZ, STRENGTH, WIDTH, branches
from torch import Tensor

from invlib import IResNet

Loss = Callable[[Tensor, Tensor], Tensor]


def load(name: str) -> ModuleType | None:
    """Return the module of a peer, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


normflows = load("normflows")
freia = load("FrEIA.modules")


def versions() -> dict[str, str]:
    """Return the version of each peer, or why it is left out."""
    installed = {"normflows": normflows, "FrEIA": freia}
    return {
        name: importlib.metadata.version(name) if module else "not installed: skipped"
        for name, module in installed.items()
    }


def normflows_network(
    *, lipschitz: float = LIPSCHITZ, power_iterations: int = 5, exact: bool = True
) -> torch.nn.Module:
    """Return a residual flow of normflows; each layer has the limit L^(1/3), so that each block has L."""
    return torch.nn.ModuleList(
        normflows.flows.Residual(
            normflows.nets.LipschitzMLP(
                [2, WIDTH, WIDTH, 2],
                lipschitz_const=lipschitz ** (1 / 3),
                max_lipschitz_iter=power_iterations,
                init_zeros=False,
            ),
            reverse=False,
            brute_force=exact,
        )
        for _ in range(BLOCKS)
    )


def normflows_pictures() -> torch.nn.Module:
    """Return a convolutional flow of normflows for pictures of one channel; its log-determinant is estimated."""
    return torch.nn.ModuleList(
        normflows.flows.Residual(
            normflows.nets.LipschitzCNN(
                [1, 16, 16, 1], [3, 1, 3], lipschitz_const=LIPSCHITZ ** (1 / 3), max_lipschitz_iter=5, init_zeros=False
            ),
            reverse=False,
        )
        for _ in range(BLOCKS)
    )


def freia_network(*, lipschitz: float = LIPSCHITZ) -> torch.nn.Module:
    """Return a stack of FrEIA's layers with the limit L^(1/3) for each matrix."""
    limit = lipschitz ** (1 / 3)
    return torch.nn.ModuleList(
        freia.IResNetLayer([(2,)], internal_size=WIDTH, spectral_norm_max=limit) for _ in range(BLOCKS)
    )


def regularized(value: Tensor, log_det: Tensor, z: Tensor) -> Tensor:
    """Return the loss with the log-determinant, summed up by hand."""
    return 0.5 * (value - z).square().sum(-1).mean() - STRENGTH**2 * log_det.mean()


def normflows_loss(net: torch.nn.Module) -> Loss:
    """Return the loss of a normflows network."""

    def loss(x: Tensor, z: Tensor) -> Tensor:
        total = 0.0
        for flow in net:
            x, log_det = flow(x)
            total = total + log_det
        return regularized(x, total, z)

    return loss


def freia_loss(net: torch.nn.Module) -> Loss:
    """Return the loss of a FrEIA network; its log-determinant has no gradient."""

    def loss(x: Tensor, z: Tensor) -> Tensor:
        total, x = 0.0, x.clone()
        for layer in net:
            (x,), log_det = layer([x])
            total = total + log_det
        return regularized(x, total, z)

    return loss


def torch_func_loss(net: IResNet) -> Loss:
    """Return the loss of an invlib network, with vmap(jacrev) for the Jacobian of each block."""

    def loss(x: Tensor, z: Tensor) -> Tensor:
        total = 0.0
        for branch in branches(net):
            jacobian, step = torch.func.vmap(torch.func.jacrev(_twice(branch), has_aux=True))(x)
            total = total + torch.linalg.slogdet(torch.eye(2, dtype=x.dtype) + jacobian).logabsdet
            x = x + step
        return regularized(x, total, z)

    return loss


def _twice(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def with_value(x: Tensor) -> tuple[Tensor, Tensor]:
        value = function(x)
        return value, value

    return with_value


def fixed_point(branch: Callable[[Tensor], Tensor], z: Tensor, tol: float, max_iterations: int = 10_000) -> Tensor:
    """Solve x + f(x) = z by x <- z - f(x) until every residual is below `tol`."""
    x = z
    for _ in range(max_iterations):
        step = x + branch(x) - z
        if float(step.detach().norm(dim=-1).max()) <= tol:
            return x
        x = x - step
    raise RuntimeError(f"no convergence within {max_iterations} iterations")


def normflows_inverse(branch: torch.nn.Module, z: Tensor, tol: float) -> Tensor:
    """Solve x + f(x) = z with the inverse of normflows and its own settings, whatever `tol`."""
    return normflows.flows.residual.iResBlock(branch).inverse(z)


def normflows_tightened(branch: torch.nn.Module, z: Tensor, tol: float) -> Tensor:
    """The same with a tolerance that is squared first, as its steps are; it gives up after 1,000 iterations."""
    return normflows.flows.residual.iResBlock(branch)._inverse_fixed_point(z, atol=tol**2, rtol=0.0)


def freia_inverse(branch: torch.nn.Module, z: Tensor, tol: float) -> Tensor:
    """Solve x + f(x) = z with the inverse of FrEIA and its own settings, whatever `tol`."""
    layer = freia.IResNetLayer([(2,)])
    layer.residual = branch
    (x,), _ = layer([z], rev=True, jac=False)
    return x
