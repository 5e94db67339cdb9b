"""How far spectral norms exceed their limit in training, and how close trained networks come to the exact maps."""

import statistics
from collections.abc import Callable

import peers
import torch
from common import LIPSCHITZ, PRIOR, PROBLEM, STRENGTH, THREAD_COUNTS, Row, Topic, check, seeded, threads
from torch import Tensor

from invlib import IResNet, log_det_loss, map_estimate, posterior_mean, train
from invlib.training import Strategy


def spectral_norms(quick: bool) -> Topic:
    """Train on z = 25 x, which no network within its bound can reach, and measure every limit by exact svd."""
    steps = 20 if quick else 200
    cases: dict[str, Callable[[], tuple]] = {"invlib": _invlib_case}
    if peers.normflows:
        for iterations in (None, 5, 50):
            name = f"normflows, {iterations or 'no'} power iterations a step"
            cases[name] = lambda iterations=iterations: _normflows_case(iterations)
    if peers.freia:
        cases["FrEIA, corrected after each step"] = _freia_case
    rows: list[Row] = []
    for name, case in cases.items():
        torch.manual_seed(0)
        net, loss, after, excess = case()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        worst = -1.0
        for k in range(steps):
            x = torch.randn(512, 2, generator=seeded(k))
            optimizer.zero_grad()
            loss(x, 25 * x).backward()
            optimizer.step()
            after()
            worst = max(worst, excess())
        rows.append({"network": name, "limit on": "block" if name == "invlib" else "layer", "worst excess": worst})
    checks = [check("spectral norm over its limit, relative", rows[0]["worst excess"], 1e-6)]
    return {"title": f"Spectral norms during {steps} training steps", "rows": rows, "checks": checks}


def _largest_singular_value(weight: Tensor) -> float:
    return float(torch.linalg.svdvals(weight.detach().double())[0])


def _invlib_case() -> tuple:
    net = IResNet(2, blocks=5, width=64, lipschitz=LIPSCHITZ)

    def excess() -> float:
        norms = [torch.linalg.svdvals(w.detach().double())[..., 0] for w in net.effective_weights()]
        return float(torch.stack(norms).prod(0).max()) / LIPSCHITZ - 1

    return net, lambda x, z: log_det_loss(net, x, z, STRENGTH), lambda: None, excess


def _normflows_case(iterations: int | None) -> tuple:
    net = peers.normflows_network()
    layers = [m for m in net.modules() if isinstance(m, peers.normflows.nets.lipschitz.InducedNormLinear)]

    def excess() -> float:
        norms = (_largest_singular_value(layer.compute_weight(update=False)) / layer.coeff for layer in layers)
        return max(norms) - 1

    def after() -> None:
        if iterations:
            peers.normflows.utils.update_lipschitz(net, iterations)

    return net, peers.normflows_loss(net), after, excess


def _freia_case() -> tuple:
    net = peers.freia_network()

    def excess() -> float:
        return (
            max(_largest_singular_value(m.weight) / layer.spectral_norm_max for layer in net for m in layer.layers) - 1
        )

    return net, peers.freia_loss(net), lambda: [layer.lipschitz_correction() for layer in net], excess


def accuracy_map(quick: bool) -> Topic:
    """Train three networks on the divergence with default options: distance to the exact MAP."""
    return _accuracy("divergence", quick)


def accuracy_mean(quick: bool) -> Topic:
    """Train three networks on the reconstruction with default options: distance to the exact posterior mean."""
    return _accuracy("reconstruction", quick)


def _accuracy(loss: Strategy, quick: bool) -> Topic:
    """The root-mean-square distance over 20,000 data z, and its share of the MAP-posterior-mean distance."""
    x = PRIOR.sample(20_000, generator=seeded(99))
    z = PROBLEM.normal_data(PROBLEM.measure(x, generator=seeded(98)))
    mode, mean = map_estimate(PROBLEM, PRIOR, z), posterior_mean(PROBLEM, PRIOR, z)
    distance = _rms(mode - mean)
    exact = mode if loss == "divergence" else mean
    errors, seconds = [], []
    for seed in range(3):
        net = IResNet(2, generator=seeded(seed))
        with threads(max(THREAD_COUNTS)):
            options = {"steps": 50} if quick else {}
            history = train(net, PROBLEM, PRIOR, loss, generator=seeded(seed), **options)
        errors.append(_rms(net.inverse(z.float(), tol=1e-6).detach() - exact))
        seconds.append(history.seconds)
        print(f"{loss}, seed {seed}: {errors[-1]:.4g} after {seconds[-1]:.3g} s", flush=True)
    row = {
        "loss": loss,
        "distance to": "MAP" if loss == "divergence" else "posterior mean",
        "median": statistics.median(errors),
        "worst": max(errors),
        "median / MAP-PM": statistics.median(errors) / distance,
        "worst / MAP-PM": max(errors) / distance,
        "seconds, median": statistics.median(seconds),
        "seconds, worst": max(seconds),
    }
    checks = [
        check(f"RMS error after train(), {loss}, worst of 3", max(errors), 0.0013),
        check(f"seconds of train(), {loss}", max(seconds), 60),
    ]
    title = f"Accuracy of train() with default options, delta = .2, RMS(MAP - posterior mean) = {distance:.4g}"
    return {"title": title, "rows": [row], "checks": checks}


def _rms(difference: Tensor) -> float:
    return float(difference.double().square().sum(-1).mean().sqrt())
