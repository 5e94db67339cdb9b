"""How long the inverse and its gradient take, what they reach, and how much memory they need."""

import ctypes
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import peers
import torch
from common import (
    Row,
    Topic,
    branches,
    check,
    folded_network,
    random_network,
    seeded,
    steepest_slope,
    threads,
)
from torch import Tensor

from invlib import IResNet

POINTS, TOLERANCE = 2_500, 1e-6
TIGHTENED = "normflows, tolerance tightened"
NETWORKS = {"folds": folded_network, "random": random_network}


def inverse(quick: bool) -> Topic:
    """Invert 2,500 points in float64 with every block's bound attained; the peers invert the very same map."""
    rows: list[Row] = []
    checks: list[Row] = []
    for kind, build in NETWORKS.items():
        for lipschitz in (0.9, 0.97, 0.99):
            net = build(lipschitz)
            x = torch.randn(POINTS, 2, dtype=torch.float64, generator=seeded(1))
            with threads(1), torch.no_grad():
                found = _compare(net, net(x), 1 if quick else 5, slow_peers=kind == "folds")
            fastest = found["invlib"]["seconds"]
            for method, row in found.items():
                start = {"network": kind, "L": lipschitz, "steepest slope": steepest_slope(net, x), "method": method}
                rows.append(start | row | {"invlib / this": fastest / row["seconds"]})
            if kind == "folds" and TIGHTENED in found:  # the target is for networks whose slopes reach the bound
                ratio = fastest / found[TIGHTENED]["seconds"]
                checks.append(check(f"inverse / peer with tightened tolerance, L={lipschitz}", ratio, 1 / 12))
            ratio = fastest / found["plain fixed point"]["seconds"]
            checks.append(check(f"inverse / plain fixed point, {kind}, L={lipschitz}", ratio, 1 / 12))
    return {"title": "Inverse of 2,500 points, residual ≤ 10⁻⁶, float64, 1 thread", "rows": rows, "checks": checks}


def _compare(net: IResNet, z: Tensor, repeats: int, slow_peers: bool) -> dict[str, Row]:
    functions = branches(net)
    size = max(1.0, float(z.norm(dim=-1).max()))
    methods = {
        "invlib": lambda: net.solve_inverse(z, tol=TOLERANCE / size).x,
        "plain fixed point": lambda: _by_blocks(functions, z, net.lipschitz, peers.fixed_point),
    }
    if peers.normflows:
        methods["normflows, its settings"] = lambda: _by_blocks(functions, z, net.lipschitz, peers.normflows_inverse)
        methods[TIGHTENED] = lambda: _by_blocks(functions, z, net.lipschitz, peers.normflows_tightened)
    if peers.freia:
        methods["FrEIA, its settings"] = lambda: _by_blocks(functions, z, net.lipschitz, peers.freia_inverse)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    residuals: dict[str, float] = {}
    for repeat in range(repeats):
        for name, method in methods.items():
            if repeat > 2 and slow_peers and name != "invlib":
                continue  # several seconds each
            start = time.perf_counter()
            x = method()
            seconds[name].append(time.perf_counter() - start)
            residuals[name] = float((net(x) - z).norm(dim=-1).max())
    return {
        name: {"seconds": statistics.median(seconds[name]), "residual": r, "reached": r <= TOLERANCE}
        for name, r in residuals.items()
    }


def _by_blocks(functions: list, z: Tensor, lipschitz: float, solve: peers.Callable) -> Tensor:
    """Invert the last block first; each gets its share of the tolerance, less what later blocks amplify it to."""
    share = TOLERANCE / len(functions)
    for function in reversed(functions):
        z = solve(function, z, share)
        share /= 1 + lipschitz
    return z


def gradient(quick: bool) -> Topic:
    """Differentiate the inverse in the data and in the parameters: time and peak memory, each in a process of its own.

    Unrolling the folded network at L = .97 and .99 would take three and six times what it takes at L = .9.
    """
    rows: list[Row] = []
    checks: list[Row] = []
    points = 250 if quick else POINTS
    for kind, lipschitz in (("folds", 0.9), ("random", 0.99)):
        found = {method: _in_new_process(method, kind, lipschitz, points) for method in ("invlib", "unrolled")}
        error = float((found["invlib"].pop("gradient") - found["unrolled"].pop("gradient")).abs().max())
        for method, row in found.items():
            rows.append({"network": kind, "L": lipschitz, "points": points, "method": method} | row)
        rows[-2]["difference"] = error
        ours, unrolled = found["invlib"], found["unrolled"]
        checks.append(check(f"gradient / unrolled, time, {kind}", ours["seconds"] / unrolled["seconds"], 1 / 20))
        checks.append(check(f"gradient, MiB, {kind}", ours["peak MiB"], 50))
    return {"title": "Gradient through the inverse, float64, 1 thread", "rows": rows, "checks": checks}


def _in_new_process(method: str, kind: str, lipschitz: float, points: int) -> dict:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(_measure_gradient, method, kind, lipschitz, points).result()


def _measure_gradient(method: str, kind: str, lipschitz: float, points: int) -> dict:
    """Return seconds, peak memory above that before the call, and the gradient in z and the first weight."""
    torch.set_num_threads(1)
    # M_MMAP_THRESHOLD: what is freed goes back to the system at once, so the peak does not depend on old gaps.
    ctypes.CDLL(None).mallopt(-3, 2**16)
    net = NETWORKS[kind](lipschitz)
    x = torch.randn(points, 2, dtype=torch.float64, generator=seeded(1))
    z = net(x).detach()
    _gradient_of(method, net, z[:10])  # loads what is loaded on first use
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (Linux)
    start = time.perf_counter()
    result = _gradient_of(method, net, z)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak MiB": _memory("VmHWM") - before, "gradient": result}


def _memory(name: str) -> float:
    """Return an entry of /proc/self/status in MiB: VmRSS is the memory in use, VmHWM its peak."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(name))


def _gradient_of(method: str, net: IResNet, z: Tensor) -> Tensor:
    z = z.clone().requires_grad_(True)
    net.zero_grad()
    if method == "invlib":
        x = net.inverse(z, tol=1e-9)
    else:
        x = _by_blocks(branches(net), z, net.lipschitz, lambda f, y, _: peers.fixed_point(f, y, 1e-9))
    x.square().sum(-1).mean().backward()
    return torch.cat([z.grad.flatten(), net.weights[0].grad.flatten()])
