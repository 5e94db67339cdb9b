"""Train the networks of the laboratory and write them into the script ``_static/lab/networks.js``.

Run as ``python book/laboratory_data.py`` after a change; ``tests/test_laboratory.py`` finds out whether it is needed.
The weights are rounded to sixteen bits, and the rounded network is the network: `network` gives it to the library.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import invlib
from invlib import testproblems
from invlib.log_det_minimizer import LogDetMinimizer
from invlib.standard import standardize

FILE = Path(__file__).resolve().parent / "_static" / "lab" / "networks.js"
HEAD = "// The trained networks of the laboratory: written by book/laboratory_data.py.\n"
START = "Laboratory.networks = "

BLOCKS, WIDTH, LIPSCHITZ = 3, 10, 0.97
ROUNDED = 0.972  # the bound that the blocks still obey when their weights are rounded
LEVELS = 2**15 - 1  # of a weight, on either side of zero

SETTINGS = {
    "identity": {"epsilon": 1.0, "angle": 40.0, "noise_std": 0.45},
    "half": {"epsilon": 0.5, "angle": 40.0, "noise_std": 0.2},
    "eighth": {"epsilon": 0.125, "angle": 122.0, "noise_std": 0.16},
}
STEPS = {"approximation": 1200, "reconstruction": 1500, "log_det": 1500, "divergence": 2500}


def problems() -> dict[str, invlib.LinearProblem]:
    """Return the problems that networks are trained for, by name."""
    return {name: testproblems.epsilon_problem(**setting) for name, setting in SETTINGS.items()}


def digest() -> str:
    """Return a hash of the training: what the stored networks belong to."""
    parts = [inspect.getsource(train), inspect.getsource(packed), repr((BLOCKS, WIDTH, LIPSCHITZ, SETTINGS, STEPS))]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def train(loss: str, seed: int) -> list[dict]:
    """Train one network for each problem with one of the losses, and return them in the form that is stored."""
    prior, chosen = testproblems.two_bumps(), list(problems().values())
    generator = torch.Generator().manual_seed(seed)
    net = invlib.IResNet.for_problem(
        chosen, prior, blocks=BLOCKS, width=WIDTH, lipschitz=LIPSCHITZ, members=len(chosen), generator=generator
    )
    invlib.train(net, chosen, prior, loss, steps=STEPS[loss], whiten=loss == "log_det", generator=generator)
    stored = [{"problem": name, "loss": loss, **packed(net.double(), member)} for member, name in enumerate(SETTINGS)]
    return [{**each, "distance": round(distance(each), 5)} for each in stored]


def packed(net: invlib.IResNet, member: int) -> dict:
    """Return the effective weights of a member, rounded, as text."""
    weights = [weight[member].detach() for weight in net.effective_weights()]
    biases = [bias[member].detach() for bias in net.biases]
    tensors = [tensor for layer in zip(weights, biases, strict=True) for tensor in layer]
    scales = [float(f"{float(tensor.abs().max()) / LEVELS:.4g}") or 1.0 for tensor in tensors]
    rounded = [(tensor / scale).round().flatten() for tensor, scale in zip(tensors, scales, strict=True)]
    numbers = torch.cat(rounded).clamp(-LEVELS, LEVELS).numpy().astype("<i2")
    return {"scales": scales, "weights": base64.b64encode(numbers.tobytes()).decode()}


def layers(problem: invlib.LinearProblem) -> dict[str, list[float]]:
    """Return the fixed layers around the blocks of the networks for a problem, row after row."""
    standard = standardize(problem, testproblems.two_bumps())
    matrices = {"first": standard.first.matrix, "last": standard.last.matrix}
    return {name: [round(entry, 9) for entry in matrix.flatten().tolist()] for name, matrix in matrices.items()}


def unpacked(stored: dict) -> list[Tensor]:
    """Return weight and bias of the three layers of all blocks: (K, out, in) and (K, 1, out), in turn, float64."""
    numbers = torch.from_numpy(np.frombuffer(base64.b64decode(stored["weights"]), "<i2").astype(float))
    sizes = [2, WIDTH, WIDTH, 2]
    shapes = []
    for inputs, outputs in pairwise(sizes):
        shapes += [(BLOCKS, outputs, inputs), (BLOCKS, 1, outputs)]
    parts = torch.split(numbers, [int(np.prod(shape)) for shape in shapes])
    return [part.reshape(shape) * scale for part, shape, scale in zip(parts, shapes, stored["scales"], strict=True)]


def read() -> dict:
    """Return what is stored: `digest`, `settings` and `networks`."""
    text = FILE.read_text(encoding="utf-8")
    return json.loads(text.partition(START)[2].strip().removesuffix(";"))


def network(stored: dict) -> invlib.IResNet:
    """Return a stored network as one of the library, in double precision."""
    prior, problem = testproblems.two_bumps(), problems()[stored["problem"]]
    net = invlib.IResNet.for_problem(problem, prior, blocks=BLOCKS, width=WIDTH, lipschitz=ROUNDED, dtype=torch.float64)
    tensors = unpacked(stored)
    with torch.no_grad():
        for layer in range(3):
            net.weights[layer].copy_(tensors[2 * layer])
            net.biases[layer].copy_(tensors[2 * layer + 1])
    return net.requires_grad_(False)


def exact_inverse(loss: str, problem: invlib.LinearProblem, z: Tensor) -> Tensor:
    """Return what the inverse of a network should be at data z: computed without a network."""
    prior = testproblems.two_bumps()
    if loss == "approximation":
        return torch.linalg.solve(problem.normal_operator, z.mT).mT
    if loss == "log_det":
        return LogDetMinimizer(problem, prior, whiten=True).inverse(z, guess=z)
    return (invlib.posterior_mean if loss == "reconstruction" else invlib.map_estimate)(problem, prior, z)


def distance(stored: dict) -> float:
    """Return the root mean square distance of a stored network's inverse to its exact one, over the data."""
    problem, prior = problems()[stored["problem"]], testproblems.two_bumps()
    generator = torch.Generator().manual_seed(100)
    z = problem.normal_data(problem.measure(prior.sample(4000, generator=generator), generator=generator))
    error = network(stored).inverse(z) - exact_inverse(stored["loss"], problem, z)
    return float(error.square().sum(-1).mean().sqrt())


def write(networks: list[dict]) -> None:
    """Store the networks, one a line."""
    known = {name: {**SETTINGS[name], **layers(problem)} for name, problem in problems().items()}
    settings = json.dumps({"blocks": BLOCKS, "width": WIDTH, "lipschitz": LIPSCHITZ, "problems": known})
    lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in networks)
    text = f'{HEAD}{START}{{"digest": "{digest()}", "settings": {settings}, "networks": [\n{lines}\n]}};\n'
    FILE.write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    """Train all networks, one loss after the other, and store them."""
    networks = []
    for seed, loss in enumerate(STEPS):
        networks += train(loss, seed)
        print(f"{loss}: trained", flush=True)
    write(networks)


if __name__ == "__main__":
    main()
