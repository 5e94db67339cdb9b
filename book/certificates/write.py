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
from invlib import GaussianMixture, LinearProblem, testproblems

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import laboratory_data  # noqa: E402

MARGIN = 1e-7  # between a norm and the bound that is proved
ENCLOSURE = {"posterior": 1e-10, "map": 1e-6}
BASINS = [0.2 / 2**k for k in range(8)]
TIE = 1e-9

NETWORK_STATEMENTS = ["thm-rn-banach", "prop-rn-bound", "prop-rn-stop"]
POSTERIOR_STATEMENTS = ["prop-pe-mixture"]
MAP_STATEMENTS = ["prop-pe-map", "thm-pe-jump"]


def network_claim(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the claims on a network of the laboratory: Lipschitz constants, and the inverse at 25 points."""
    net = laboratory_data.network(stored)
    tensors = laboratory_data.integers(stored)
    layers = [tensors[2 * k : 2 * k + 2] for k in range(3)]
    scales = [stored["scales"][2 * k : 2 * k + 2] for k in range(3)]

    blocks, norms = [], []
    for number in range(net.depth):
        weights = [(weight[number].int().tolist(), scale[0]) for (weight, _), scale in zip(layers, scales, strict=True)]
        biases = [(bias[number, 0].int().tolist(), scale[1]) for (_, bias), scale in zip(layers, scales, strict=True)]
        blocks.append({"weights": weights, "biases": biases})
        norms.append(
            [
                (1 + MARGIN) * float(torch.linalg.matrix_norm(weight[number] * scale[0], 2))
                for (weight, _), scale in zip(layers, scales, strict=True)
            ]
        )
    limit = math.ceil(1e6 * max(math.prod(each) for each in norms)) / 1e6

    z = torch.cartesian_prod(*2 * [torch.linspace(-1.6, 1.6, 5, dtype=torch.float64)])
    x = net.inverse(z, tol=1e-12)
    return {
        "kind": "network",
        "statements": NETWORK_STATEMENTS,
        "lipschitz": limit,
        "first": matrix(stored["first"]),
        "last": matrix(stored["last"]),
        "blocks": blocks,
        "norms": norms,
        "z": z.tolist(),
        "x": x.tolist(),
        "radius": 1e-6,
    }


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
    for stored in laboratory_data.read()["networks"]:
        write(f"network-{stored['problem']}-{stored['loss'].replace('_', '-')}", network_claim(stored))


if __name__ == "__main__":
    write_line()
    write_plane()
    write_networks()
