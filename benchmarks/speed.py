"""How long a training step, an ensemble and each quantity of a network take."""

import statistics
from collections.abc import Callable

import peers
import torch
from common import (
    BLOCKS,
    LIPSCHITZ,
    PRIOR,
    PROBLEM,
    STRENGTH,
    THREAD_COUNTS,
    WIDTH,
    Row,
    Topic,
    check,
    interleaved,
    seeded,
    threads,
)
from torch import Tensor

from invlib import IResNet, divergence_loss, log_det_loss, train
from invlib.optimizers import SOAP


def _batch(count: int = 512, members: int | None = None, dim: int = 2) -> tuple[Tensor, Tensor]:
    shape = (count, dim) if members is None else (members, count, dim)
    x = torch.randn(shape, generator=seeded(1))
    return x, x.clone()


def _network(members: int | None = None) -> IResNet:
    return IResNet(2, blocks=BLOCKS, width=WIDTH, lipschitz=LIPSCHITZ, members=members, generator=seeded())


def _gradient(net: torch.nn.Module, loss: peers.Loss, members: int | None = None) -> Callable[[], None]:
    """Return a function that computes the loss and its gradient."""
    x, z = _batch(members=members)

    def run() -> None:
        net.zero_grad()
        loss(x, z).sum().backward()

    return run


def _step(
    net: torch.nn.Module, loss: peers.Loss, optimizer: torch.optim.Optimizer, after: Callable[[], object] = lambda: None
) -> Callable[[], None]:
    """Return a function that takes a whole training step; `after` is what the library asks for after it."""
    gradient = _gradient(net, loss)

    def run() -> None:
        gradient()
        optimizer.step()
        after()

    return run


def _invlib_loss(net: IResNet) -> peers.Loss:
    return lambda x, z: log_det_loss(net, x, z, STRENGTH)


def training_step(quick: bool) -> Topic:
    """Time forward pass, log-determinant and gradient, without and with the optimizer and the Lipschitz update."""
    exact = {"invlib": (_network(), _invlib_loss), "torch.func (vmap + jacrev)": (_network(), peers.torch_func_loss)}
    if peers.normflows:
        exact["normflows, exact"] = (peers.normflows_network(), peers.normflows_loss)
    inexact = {}
    if peers.normflows:
        inexact["normflows, default (stochastic)"] = (peers.normflows_network(exact=False), peers.normflows_loss)
    if peers.freia:
        inexact["FrEIA (stochastic, no gradient)"] = (peers.freia_network(), peers.freia_loss)
    networks = exact | inexact
    tasks: dict[str, Callable[[], None]] = {}
    for name, (net, loss) in networks.items():
        tasks[name] = _gradient(net, loss(net))
        tasks[name + "+"] = _step(net, loss(net), torch.optim.Adam(net.parameters(), lr=1e-4), _update(name, net))
    soap = _network()
    tasks["SOAP"] = _step(soap, _invlib_loss(soap), SOAP(soap.parameters(), lr=1e-4))
    rows: list[Row] = []
    checks: list[Row] = []
    for count in THREAD_COUNTS:
        with threads(count):
            times = interleaved(tasks, 5 if quick else 25)
        ours, ours_with = times["invlib"], times["invlib+"]
        rows += [
            {
                "threads": count,
                "network": name,
                "log-det": "exact" if name in exact else "estimated",
                "gradient ms": 1e3 * times[name],
                "step with Adam ms": 1e3 * times[name + "+"],
                "invlib / this": ours / times[name],
                "with Adam": ours_with / times[name + "+"],
            }
            for name in networks
        ]
        rows.append({"threads": count, "network": "invlib, its own SOAP", "step with Adam ms": 1e3 * times["SOAP"]})
        peer = min(times[name] for name in exact if name != "invlib")
        checks.append(check(f"training step / best exact peer, {count} threads", ours / peer, 0.65))
    return {"title": "Training step, 5 blocks of 2–64–64–2, batch 512", "rows": rows, "checks": checks}


def _update(name: str, net: torch.nn.Module) -> Callable[[], object]:
    """The update of the spectral norms that a peer leaves to its user, with the peer's default effort."""
    if name.startswith("normflows"):
        return lambda: peers.normflows.utils.update_lipschitz(net, 5)
    if name.startswith("FrEIA"):
        return lambda: [layer.lipschitz_correction() for layer in net]
    return lambda: None


class _TorchFuncLoss(torch.nn.Module):
    """The loss of the peer in torch.func as a module, for `torch.func.functional_call`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _network()

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return peers.torch_func_loss(self.net)(x, z)


def _vmapped(members: int) -> Callable[[], None]:
    """Return a gradient step of `members` single networks in torch.func, by vmap over their stacked parameters."""
    modules = [_TorchFuncLoss() for _ in range(members)]
    parameters, _ = torch.func.stack_module_state(modules)
    x, z = _batch(members=members)

    def loss(values: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
        return torch.func.functional_call(modules[0], values, (x, z))

    def run() -> None:
        total = torch.func.vmap(loss)(parameters, x, z).sum()
        torch.autograd.grad(total, list(parameters.values()))

    return run


def ensembles(quick: bool) -> Topic:
    """Time the gradient of 1, 8 and 32 networks: member axis, a loop over ours, torch.func in a loop and by vmap."""
    ours, theirs = _network(), _network()
    one, one_by_torch_func = _gradient(ours, _invlib_loss(ours)), _gradient(theirs, peers.torch_func_loss(theirs))
    rows: list[Row] = []
    checks: list[Row] = []
    for count in THREAD_COUNTS:
        for members in (1, 8, 32):
            net = _network(members)
            tasks = {
                "member axis": _gradient(net, _invlib_loss(net), members),
                "loop": lambda members=members: [one() for _ in range(members)],
                "torch.func vmap": _vmapped(members),
                "torch.func loop": lambda members=members: [one_by_torch_func() for _ in range(members)],
            }
            with threads(count):
                times = interleaved(tasks, 2 if quick else max(4, 40 // members))
            row = {"threads": count, "members": members}
            row |= {f"{name}, ms each": 1e3 * seconds / members for name, seconds in times.items()}
            row |= {f"members / {name}": times["member axis"] / times[name] for name in list(tasks)[1:]}
            rows.append(row)
        ratio = rows[-1]["members / torch.func loop"]
        checks.append(check(f"E = 32 per network / torch.func loop, {count} threads", ratio, 0.45))
    return {"title": "Ensembles, 5 blocks of 2–64–64–2, batch 512", "rows": rows, "checks": checks}


def sweep(quick: bool) -> Topic:
    """Time `train` with a sweep of 32 strengths against 32 single networks, both with default options."""
    steps, rounds = (3, 1) if quick else (40, 3)
    strengths = [0.05 + 0.01 * k for k in range(32)]
    rows: list[Row] = []
    checks: list[Row] = []
    for count in THREAD_COUNTS:
        for loss in ("divergence", "reconstruction"):
            one, many = IResNet(2, generator=seeded()), IResNet(2, members=32, generator=seeded())
            seconds: dict[str, list[float]] = {"one": [], "sweep": []}
            with threads(count):
                for _ in range(rounds):  # the history's own clock: without the setting up that long runs do not notice
                    alone = train(one, PROBLEM, PRIOR, loss, steps=steps, generator=seeded())
                    together = train(many, PROBLEM, PRIOR, loss, strength=strengths, steps=steps, generator=seeded())
                    seconds["one"].append(alone.seconds / steps)
                    seconds["sweep"].append(together.seconds / steps)
            single, sweep_of_32 = (statistics.median(values) for values in seconds.values())
            ratio = sweep_of_32 / (32 * single)
            times = {"ms a step, sweep": 1e3 * sweep_of_32, "ms a step, one": 1e3 * single}
            rows.append({"threads": count, "loss": loss} | times | {"ratio": ratio})
            checks.append(check(f"sweep of 32 / 32 singles, {loss}, {count} threads", ratio, 0.4))
    return {"title": "train(), default options, 3 blocks of 2–32–32–2, batch 256", "rows": rows, "checks": checks}


def dimensions(quick: bool) -> Topic:
    """Time every quantity of a network against the dimension."""
    rows: list[Row] = []
    for dim in (2, 16, 64) if quick else (2, 16, 64, 128, 784):
        net = IResNet(dim, blocks=BLOCKS, width=WIDTH, generator=seeded())
        x, _ = _batch(256, dim=dim)
        with torch.no_grad():
            z = net(x)
        generator = seeded()

        def step(net: IResNet = net, x: Tensor = x, generator: torch.Generator = generator) -> None:
            net.zero_grad()
            divergence_loss(net, x, x, STRENGTH, generator=generator).backward()

        with threads(1):
            step_seconds = interleaved({"step": step}, 2 if quick else 5)["step"]
        tasks = {
            "forward": lambda net=net, x=x: net(x),
            "log-det, exact": lambda net=net, x=x: net.forward_and_log_det(x, exact=True),
            "log-det, 20 terms": lambda net=net, x=x, g=generator: net.estimate_log_det(x, generator=g),
            "divergence, estimated": lambda net=net, x=x, g=generator: net.estimate_divergence(x, generator=g),
            "inverse": lambda net=net, z=z: net.solve_inverse(z, tol=1e-6).raise_unless_converged(),
        }
        if dim <= 128:
            tasks["Jacobian"] = lambda net=net, x=x: net.forward_and_jacobian(x)
            tasks["divergence, exact"] = lambda net=net, x=x: net.forward_and_divergence(x, exact=True)
        with threads(1), torch.no_grad():
            times = interleaved(tasks, 2 if quick else 5)
        times = {"divergence loss and gradient": step_seconds} | times
        rows.append({"n": dim} | {f"{name}, ms": 1e3 * seconds for name, seconds in times.items()})
    return {
        "title": "Cost against the dimension, 5 blocks of width 64, 256 points, 1 thread",
        "rows": rows,
        "checks": [],
    }
