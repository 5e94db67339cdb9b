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
    """Train networks on the divergence with default options: distance to the exact MAP."""
    return _accuracy("divergence", quick)


def accuracy_mean(quick: bool) -> Topic:
    """Train networks on the reconstruction with default options: distance to the exact posterior mean."""
    return _accuracy("reconstruction", quick)


def _accuracy(loss: Strategy, quick: bool) -> Topic:
    """Three networks one by one, and 32 in a sweep: RMS distances over 20,000 data z, also relative to MAP-PM."""
    x = PRIOR.sample(20_000, generator=seeded(99))
    z = PROBLEM.normal_data(PROBLEM.measure(x, generator=seeded(98)))
    mode, mean = map_estimate(PROBLEM, PRIOR, z), posterior_mean(PROBLEM, PRIOR, z)
    distance = float(_rms(mode - mean))
    exact = mode if loss == "divergence" else mean

    def trained(seed: int, members: int | None) -> tuple[list[float], float]:
        """The errors, and the seconds for each network."""
        net = IResNet(2, members=members, generator=seeded(seed))
        with threads(max(THREAD_COUNTS)):
            options = {"steps": 50} if quick else {}
            history = train(net, PROBLEM, PRIOR, loss, generator=seeded(seed), **options)
            data = z.float().expand(members or 1, -1, -1)
            errors = _rms(net.inverse(data if members else data[0], tol=1e-6).detach() - exact).reshape(-1).tolist()
        print(f"{loss}, seed {seed}, {len(errors)}: {max(errors):.4g} after {history.seconds:.3g} s", flush=True)
        return errors, history.seconds / len(errors)

    singles = [trained(seed, None) for seed in range(3)]
    errors, seconds = [error for found, _ in singles for error in found], [time for _, time in singles]
    swept, share = trained(0, 32)
    rows = [
        _accuracy_row("one by one", errors, statistics.median(seconds), distance),
        _accuracy_row("in a sweep", swept, share, distance),
    ]
    checks = [
        check(f"RMS error after train(), {loss}, worst of 3", max(errors), 0.0013),
        check(f"seconds of train(), {loss}", max(seconds), 60),
    ]
    target = "the MAP" if loss == "divergence" else "the posterior mean"
    title = f"Default options, {loss}: distance to {target} (MAP and posterior mean are {distance:.4g} apart)"
    return {"title": title, "rows": rows, "checks": checks}


def _accuracy_row(how: str, errors: list[float], seconds: float, distance: float) -> Row:
    return {
        "networks": f"{len(errors)} {how}",
        "median": statistics.median(errors),
        "worst": max(errors),
        "median / MAP-PM": statistics.median(errors) / distance,
        "worst / MAP-PM": max(errors) / distance,
        "beyond 0.0013": sum(error > 0.0013 for error in errors),
        "seconds, each": seconds,
    }


def _rms(difference: Tensor) -> Tensor:
    """The root mean square of vectors (..., B, n), (...)."""
    return difference.double().square().sum(-1).mean(-1).sqrt()
