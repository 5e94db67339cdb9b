"""Write the certificates that `verify.py` proves: the numbers of networks, priors and data that the pages show.

Run as ``python book/certificates/write.py`` when one of them changes. Nothing here is trusted: what is written are
claims, and `verify.py` proves them from the numbers alone.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import invlib
from invlib import GaussianMixture, IResNet, LinearProblem, testproblems

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import laboratory_data  # noqa: E402

MARGIN = 1e-7  # between a norm and the bound that is proved
ENCLOSURE = {"network": 1e-6, "posterior": 1e-10, "map": 1e-6}
BASINS = [0.2 / 2**k for k in range(8)]
TIE = 1e-9

NETWORK_STATEMENTS = ["thm-rn-banach", "prop-rn-bound", "prop-rn-stop"]
POSTERIOR_STATEMENTS = ["prop-pe-mixture"]
MAP_STATEMENTS = ["prop-pe-map", "thm-pe-jump"]


def network_claim(stored: dict[str, Any], fixed: dict[str, Any]) -> dict[str, Any]:
    """Return the claims on a network of the laboratory: Lipschitz constants, and the inverse at 25 data H x.

    Args:
        stored: the weights.
        fixed: the first and the last layer.
    """
    net = laboratory_data.network(stored)
    scales = stored["scales"]
    tensors = [tensor / scale for tensor, scale in zip(laboratory_data.unpacked(stored), scales, strict=True)]
    weights, biases = list(zip(tensors, scales, strict=True))[::2], list(zip(tensors, scales, strict=True))[1::2]

    blocks, norms = [], []
    for number in range(net.depth):
        blocks.append(
            {
                "weights": [(whole(weight[number]), scale) for weight, scale in weights],
                "biases": [(whole(bias[number, 0]), scale) for bias, scale in biases],
            }
        )
        spectral = [float(torch.linalg.matrix_norm(weight[number] * scale, 2)) for weight, scale in weights]
        norms.append([(1 + MARGIN) * norm for norm in spectral])

    points = torch.cartesian_prod(*2 * [torch.linspace(-1.6, 1.6, 5, dtype=torch.float64)])
    z = points @ laboratory_data.problems()[stored["problem"]].normal_operator
    return {
        "kind": "network",
        "statements": NETWORK_STATEMENTS,
        "lipschitz": math.ceil(1e6 * max(math.prod(each) for each in norms)) / 1e6,
        "first": matrix(fixed["first"]),
        "last": matrix(fixed["last"]),
        "blocks": blocks,
        "norms": norms,
        "z": z.tolist(),
        "x": polished(net, net.inverse(z, tol=1e-12), z, matrix(fixed["first"]), matrix(fixed["last"])).tolist(),
        "radius": ENCLOSURE["network"],
    }


def polished(net: IResNet, x: Tensor, z: Tensor, first: list[list[float]], last: list[list[float]]) -> Tensor:
    """Return the inverse of the network whose outer layers are rounded: one step of Newton from that of the other."""
    value = (x @ torch.tensor(first, dtype=torch.float64).mT)[None]  # members first
    for block in net.residual_blocks():
        value = block.value(value)
    value = value @ torch.tensor(last, dtype=torch.float64).mT
    jacobian = net.forward_and_jacobian(x)[1]
    return x - torch.linalg.solve(jacobian, value[0] - z)


def whole(tensor: Tensor) -> list[Any]:
    """Return a tensor of whole numbers as lists."""
    result: list[Any] = tensor.round().int().tolist()
    return result


def matrix(flat: Sequence[float]) -> list[list[float]]:
    """Return a square matrix from its entries."""
    size = math.isqrt(len(flat))
    return [list(flat[k * size : (k + 1) * size]) for k in range(size)]


def posterior_claim(problem: LinearProblem, prior: GaussianMixture, y: Tensor) -> dict[str, Any]:
    """Return the claims on posterior means and evidences at data y, (B, m)."""
    covariance = problem.operator @ prior.covariances @ problem.operator.mT
    noise = problem.noise_std**2 * torch.eye(y.shape[-1], dtype=torch.float64)
    of_y = GaussianMixture(prior.weights, prior.means @ problem.operator.mT, covariance + noise)
    return {
        "kind": "posterior",
        "statements": POSTERIOR_STATEMENTS,
        "problem": setting(problem, prior),
        "y": y.tolist(),
        "mean": invlib.posterior_mean(problem, prior, problem.normal_data(y)).tolist(),
        "log_evidence": of_y.log_prob(y).tolist(),
        "radius": ENCLOSURE["posterior"],
    }


def map_claim(
    problem: LinearProblem, prior: GaussianMixture, y: Tensor, modes: list[list[list[float]]]
) -> dict[str, Any]:
    """Return the claims on global maxima of the posterior at data y, (B, m); `modes` of each datum, one or several."""
    return {
        "kind": "map",
        "statements": MAP_STATEMENTS,
        "problem": setting(problem, prior),
        "y": y.tolist(),
        "modes": modes,
        "basins": [[basin(problem, prior, mode) for mode in each] for each in modes],
        "radius": ENCLOSURE["map"],
        "tie": TIE,
    }


def basin(problem: LinearProblem, prior: GaussianMixture, mode: Sequence[float]) -> float:
    """Return the half-width of a cube around a mode in which ball arithmetic finds J convex."""
    import verify

    mixture = verify.Mixture(setting(problem, prior))
    y = verify.vector([0.0] * problem.operator.shape[0])  # the Hessian does not depend on it
    for width in BASINS:
        if verify.is_positive_definite(mixture.objective(y, verify.box(mode, width))[2]):
            return width
    raise ValueError(f"mode must have a convex neighbourhood, got {mode}")


def setting(problem: LinearProblem, prior: GaussianMixture) -> dict[str, Any]:
    """Return the numbers of a problem and its prior."""
    return {
        "weights": prior.weights.tolist(),
        "means": prior.means.tolist(),
        "covariances": prior.covariances.tolist(),
        "operator": problem.operator.tolist(),
        "noise_std": problem.noise_std,
    }


def single_modes(problem: LinearProblem, prior: GaussianMixture, y: Tensor) -> list[list[list[float]]]:
    """Return the MAP estimate at each datum."""
    return [[mode.tolist()] for mode in invlib.map_estimate(problem, prior, problem.normal_data(y))]


def write(name: str, claim: dict[str, Any]) -> None:
    """Store a certificate."""
    text = json.dumps(claim, indent=None, separators=(", ", ": "))
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def write_plane() -> None:
    """Two bumps in the plane: posterior means and MAP estimates on a grid of data, for three operators."""
    prior = testproblems.two_bumps()
    y = torch.cartesian_prod(*2 * [torch.linspace(-1.5, 1.5, 4, dtype=torch.float64)])
    for name, problem in laboratory_data.problems().items():
        write(f"posterior-{name}", posterior_claim(problem, prior, y))
        write(f"map-{name}", map_claim(problem, prior, y, single_modes(problem, prior, y)))


def write_line() -> None:
    """The puzzle of the chapter on point estimators, and its Maxwell point, where two modes are equally high."""
    from checks import point_estimators as checks

    maxwell, modes = checks.maxwell_point()
    y = torch.tensor([[0.18], [maxwell], [0.24]], dtype=torch.float64)
    chosen = single_modes(checks.LINE, checks.LINE_PRIOR, y)
    chosen[1] = modes.tolist()
    write("posterior-line", posterior_claim(checks.LINE, checks.LINE_PRIOR, y))
    write("map-line", map_claim(checks.LINE, checks.LINE_PRIOR, y, chosen))


def write_networks() -> None:
    """The trained networks of the laboratory."""
    laboratory = laboratory_data.read()
    for stored in laboratory["networks"]:
        claim = network_claim(stored, laboratory["settings"]["problems"][stored["problem"]])
        write(f"network-{stored['problem']}-{stored['loss'].replace('_', '-')}", claim)


if __name__ == "__main__":
    write_line()
    write_plane()
    write_networks()
