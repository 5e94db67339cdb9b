"""Inside the library: Jacobians carried forward, low rank, the end of an iteration, gradients of inverses."""

from __future__ import annotations

import functools
import inspect
import math
import re
import textwrap
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import invlib
from checks.tools import randn, seeded, steep_network
from invlib import IResNet, LinearProblem, testproblems
from invlib.activations import smooth_abs
from invlib.dense import DenseBlock

LIPSCHITZ = 0.97
"""The bound L of the book's networks."""

HARD = (0.5, 0.9, 0.97, 0.99)
"""The bounds L of the trained blocks."""

Map = Callable[[Tensor], Tensor]
Parts = list[Tensor]


def norm(matrices: Tensor) -> Tensor:
    """Return the spectral norms, (...), of matrices (..., m, n), by a singular value decomposition."""
    value: Tensor = torch.linalg.matrix_norm(matrices, 2)
    return value


def show(*functions: object) -> None:
    """Print functions of the library without their docstrings."""
    for function in functions:
        source = textwrap.dedent(inspect.getsource(function))  # type: ignore[arg-type]
        source = re.sub(r'\n *r?""".*?"""', "", source, count=1, flags=re.DOTALL)
        print(re.sub(r" *# noqa.*", "", source))


@functools.cache
def hard_blocks() -> dict[float, IResNet]:
    """Train one block for each L in `HARD` with the divergence term, A = diag(1, 1/10): they flatten the plane."""
    prior = testproblems.two_bumps()
    problem = LinearProblem([[1.0, 0.0], [0.0, 0.1]], 0.45)
    train = functools.partial(invlib.train, strength=0.45, steps=200, batch_size=128)
    blocks = {}
    for lipschitz in HARD:
        generator = seeded(0)
        net = IResNet(2, blocks=1, lipschitz=lipschitz, generator=generator)
        with warnings.catch_warnings():  # the best map folds: out of reach, deliberately
            warnings.simplefilter("ignore", invlib.ReachWarning)
            train(net, problem, prior, "divergence", generator=generator)
        blocks[lipschitz] = net.double().requires_grad_(False)
    return blocks


# Value and Jacobian


def value_and_jacobian(weights: Parts, biases: Parts, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x + f(x) and I + Df(x) at one point x: the derivative is carried forward with the value."""
    (W1, W2, W3), (b1, b2, b3) = weights, biases
    t1, derivative = W1 @ x + b1, W1
    value, slope = smooth_abs(t1)
    t2, derivative = W2 @ value + b2, W2 @ (slope[:, None] * derivative)
    value, slope = smooth_abs(t2)
    f, derivative = W3 @ value + b3, W3 @ (slope[:, None] * derivative)
    return x + f, torch.eye(len(x), dtype=x.dtype) + derivative


def jacobian_by_rows(phi: Map, x: Tensor) -> Tensor:
    """Return D phi(x), (B, n, n), by reverse-mode differentiation of the values, row by row."""
    x = x.clone().requires_grad_(True)
    value = phi(x)
    rows = [torch.autograd.grad(value[:, i].sum(), x, retain_graph=True)[0] for i in range(x.shape[-1])]
    return torch.stack(rows, dim=-2)


def central_differences(phi: Map, x: Tensor, h: float = 1e-5) -> Tensor:
    """Return the derivative of a map of points (B, n), column by column."""
    units = torch.eye(x.shape[-1], dtype=torch.float64)
    return torch.stack([(phi(x + h * e) - phi(x - h * e)) / (2 * h) for e in units], dim=-1)


def parts_of(net: IResNet) -> tuple[Parts, Parts]:
    """Return the weights and biases of a network with one block, as matrices and vectors."""
    return [weight[0, 0] for weight in net.effective_weights()], [bias[0, 0, 0] for bias in net.biases]


def check_rn_jacobian() -> dict[str, float]:
    """The library's Jacobian against the lines of the page, reverse-mode differentiation and central differences.

    Products of matrices with entries up to 1.9^K in float64 (1e-12); differences are good to h^2 and 1e-16 / h (1e-5).
    """
    generator = seeded(14)
    gaps = []
    for n, blocks in [(1, 1), (2, 3), (5, 4)]:
        net = steep_network(n, blocks, 6, 0.9, seed=60 + n, gain=1.5)
        x = 2 * randn(200, n, generator=generator)
        value, jacobian = net.forward_and_jacobian(x)
        by_rows = jacobian_by_rows(net, x)
        gaps.append(float((jacobian - by_rows).abs().max()))
        assert (jacobian - central_differences(net, x)).abs().max() < 1e-5
        _, log_det = net.forward_and_log_det(x)
        assert (log_det - torch.logdet(by_rows)).abs().max() < 1e-11
        assert log_det.min() >= n * blocks * math.log(1 - 0.9)
        assert log_det.max() <= n * blocks * math.log(1 + 0.9)
        _, divergence = net.forward_and_divergence(x)
        assert (divergence - by_rows.diagonal(dim1=-2, dim2=-1).sum(-1)).abs().max() < 1e-12 * n * 1.9**blocks
        inverse = central_differences(lambda z, net=net: net.solve_inverse(z, tol=1e-14).x, value)  # type: ignore[misc]
        assert (inverse @ jacobian - torch.eye(n, dtype=torch.float64)).abs().max() < 1e-4
    assert max(gaps) < 1e-12

    net = steep_network(3, 1, 6, 0.9, seed=61, gain=1.5)
    x = 2 * randn(20, 3, generator=generator)
    value, jacobian = net.forward_and_jacobian(x)
    for i in range(len(x)):
        ours = value_and_jacobian(*parts_of(net), x[i])
        assert (ours[0] - value[i]).abs().max() < 1e-13
        assert (ours[1] - jacobian[i]).abs().max() < 1e-13
    return {"gap": max(gaps)}


def control_rn_jacobian() -> dict[str, float]:
    """Broken: C^1. With the activation |t|, difference quotients in the directions v and -v do not add up to zero."""
    net = steep_network(3, 1, 6, 0.9, seed=65)
    (W1, W2, W3), (b1, b2, b3) = parts_of(net)
    row, offset = W1[0], b1[0]
    x = 2 * randn(200, 3, generator=seeded(16))
    x = x - (x @ row + offset)[:, None] * row / (row @ row)  # the first entry of t1 is zero: on the kink
    across = row / row.norm()

    def kinked(x: Tensor) -> Tensor:
        return x + (((x @ W1.mT + b1).abs() @ W2.mT + b2).abs() @ W3.mT + b3)

    def both_ways(block: Map, h: float) -> Tensor:
        return (block(x + h * across) + block(x - h * across) - 2 * block(x)) / h

    step = 1e-7
    t1 = x @ W1.mT + b1
    t2 = t1.abs() @ W2.mT + b2
    alone = torch.minimum(t1[:, 1:].abs().amin(-1), t2.abs().amin(-1)) > 10 * step  # no other kink nearby
    sums = both_ways(kinked, step)[alone]
    # By the chain rule on each side: twice the column of the first unit, with the signs of t2.
    jump = 2 * (t2.sign() * W2[:, 0]) @ W3.mT * row.norm()
    assert (sums - jump[alone]).abs().max() < 1e-6  # rounding: 1e-14 / step
    size = sums.norm(dim=-1)
    assert size.median() > 0.01
    smooth = both_ways(net, step)[alone].norm(dim=-1)  # the same weights: step times a second derivative
    assert smooth.max() < 1e-4 * size.median()
    return {"kink": float(size.median()), "smooth": float(smooth.max())}


# The gradient of value and Jacobian


def second_slope(t: Tensor) -> Tensor:
    """Return sigma''."""
    return 0.25 * (t**2 + 0.25) ** -1.5


def gradient_by_hand(
    weights: Parts, biases: Parts, x: Tensor, to_value: Tensor, to_jacobian: Tensor, bend: Map = second_slope
) -> Parts:
    """Return the gradient of <to_value, x + f(x)> + <to_jacobian, I + Df(x)> in x, W_i and b_i, as the page has it."""
    units = torch.eye(x.shape[-1], dtype=torch.float64).expand(len(x), -1, -1)
    P, entering, leaving = torch.cat([x[:, None], units], dim=1), [], []
    for W, b in zip(weights, biases, strict=True):
        Q = P @ W.mT
        Q[:, 0] += b
        entering.append(P)
        leaving.append(Q)
        value, slope = smooth_abs(Q[:, :1])
        P = torch.cat([value, slope * Q[:, 1:]], dim=1)  # not used behind the last layer
    Q_bar = torch.cat([to_value[:, None], to_jacobian.mT], dim=1)
    to_weights: Parts = []
    to_biases: Parts = []
    for i in (2, 1, 0):
        to_weights.insert(0, (Q_bar.mT @ entering[i]).sum(0))
        to_biases.insert(0, Q_bar[:, 0].sum(0))
        P_bar = Q_bar @ weights[i]
        if i > 0:
            Q = leaving[i - 1]
            Q_bar = smooth_abs(Q[:, :1])[1] * P_bar
            Q_bar[:, 0] += bend(Q[:, 0]) * (Q[:, 1:] * P_bar[:, 1:]).sum(1)
    return [to_value + P_bar[:, 0], *to_weights, *to_biases]


def flatten(parts: Parts | tuple[Tensor, ...]) -> Tensor:
    """Return all entries of some tensors as one vector."""
    return torch.cat([part.flatten() for part in parts])


def compare_gradients() -> dict[str, float]:
    """Assert that three gradients agree: the written one, the library's and automatic differentiation.

    The loss is a random linear function of value and Jacobian: sums of a few hundred terms in float64.
    """
    generator = seeded(46)
    share = math.inf
    for n, width in [(1, 4), (2, 6), (5, 3)]:
        shapes = [(9, n), (width, n), (width, width), (n, width), (width,), (width,), (n,)]
        inputs = [randn(*shape, generator=generator).requires_grad_() for shape in shapes]
        x, weights, biases = inputs[0], inputs[1:4], inputs[4:]
        factors = randn(9, n, generator=generator), randn(9, n, n, generator=generator)
        pairs = [value_and_jacobian(weights, biases, point) for point in x]
        block = DenseBlock([w[None] for w in weights], [b[None, None] for b in biases])
        automatic, library = (
            flatten(torch.autograd.grad((factors[0] * value).sum() + (factors[1] * jacobian).sum(), inputs))
            for value, jacobian in (
                [torch.stack(part) for part in zip(*pairs, strict=True)],
                [part[0] for part in block.value_and_jacobian(x[None])],
            )
        )
        with torch.no_grad():
            ours = flatten(gradient_by_hand(weights, biases, x, *factors))
            unbent = flatten(gradient_by_hand(weights, biases, x, *factors, bend=torch.zeros_like))
        for gradient in (library, ours):
            assert (gradient - automatic).abs().max() < 1e-12 * automatic.abs().max()
        share = min(share, float((unbent - automatic).norm() / automatic.norm()))
    assert share > 0.05
    return {"bend": 100 * share}


# Low rank


def wide_and_narrow() -> tuple[Tensor, Tensor]:
    """Return random factors U, (40, 6), and V, (6, 40)."""
    generator = seeded(16)
    n, d = 40, 6
    return randn(n, d, generator=generator), 0.05 * randn(d, n, generator=generator)


def woodbury(U: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """Return det(I + VU) and I - U (I + VU)^{-1} V."""
    small = torch.eye(U.shape[1], dtype=torch.float64) + V @ U
    return torch.linalg.det(small), torch.eye(len(U), dtype=torch.float64) - U @ torch.linalg.solve(small, V)


def check_rn_woodbury() -> dict[str, float]:
    """A wide network and random factors: the formulas against dense determinants and inverses, to eleven digits."""
    U, V = wide_and_narrow()
    n, d = U.shape
    net = steep_network(n, 3, d, 0.9, seed=70, gain=1.5)
    x = randn(50, n, generator=seeded(17))
    value, log_det = net.forward_and_log_det(x)
    assert (log_det - torch.logdet(net.forward_and_jacobian(x)[1])).abs().max() < 1e-11
    back = net.solve_inverse(value)  # its Newton steps use Woodbury's formula
    assert (back.x - x).norm(dim=-1).max() <= back.error_bound.max()
    wide = torch.eye(n, dtype=torch.float64) + U @ V
    determinant, inverse = woodbury(U, V)
    size = float(torch.linalg.inv(wide).abs().max())
    gap = float((inverse - torch.linalg.inv(wide)).abs().max()) / size
    assert gap < 1e-10
    assert abs(float(torch.linalg.det(wide) / determinant) - 1) < 1e-10
    return {"n": n, "d": d, "gap": gap}


def nearly_singular_inverses() -> tuple[Tensor, Tensor, Tensor]:
    """Return determinants of I + UV that tend to zero, and the norms of the inverses by the formula and directly."""
    U, _ = wide_and_narrow()
    column = U[:, :1]
    determinants = torch.logspace(0, -8, 17, dtype=torch.float64)
    by_formula, direct = [], []
    for determinant in determinants:
        V = (determinant - 1) * column.mT / column.square().sum()  # 1 + VU is the determinant
        by_formula.append(norm(woodbury(column, V)[1]))
        direct.append(norm(torch.linalg.inv(torch.eye(len(U), dtype=torch.float64) + column @ V)))
    return determinants, torch.stack(by_formula), torch.stack(direct)


def control_rn_woodbury() -> dict[str, float]:
    """Broken: the determinant is not zero. As it tends to zero, both inverses leave every bound, like 1 / det."""
    determinants, by_formula, direct = nearly_singular_inverses()
    assert (by_formula / direct - 1).abs().max() < 1e-5  # 1e-16 / 1e-8 and some more
    assert (by_formula * determinants - 1).abs().max() < 1e-5
    return {"largest": float(by_formula.max()), "determinant": float(determinants.min())}


# When to stop


class Stopped(NamedTuple):
    """A run of fixed-point steps in single precision that ended where nothing was gained."""

    limit: float  # Lip(f) of the rounded weights
    path: Tensor  # computed residuals on the way, (steps, B)
    size: Tensor  # at the end, (B,)
    gamma: float  # the largest rounding error seen
    error: Tensor  # distance to the solution in double precision, (B,)

    @property
    def floor(self) -> float:
        """What the proposition promises for the last residual."""
        return 3 * (1 + self.limit) / (1 - self.limit) * self.gamma


def single_precision_block(net: IResNet) -> tuple[DenseBlock, DenseBlock]:
    """Return the block of a network with its weights rounded to float32, and the same in float64."""
    weights = [weight[:, 0].float() for weight in net.effective_weights()]
    block = DenseBlock(weights, [bias[:, 0].float() for bias in net.biases])
    return block, block.detached(torch.float64)


def stop_where_nothing_is_gained(net: IResNet, count: int = 400) -> Stopped:
    """Invert random data by fixed-point steps in single precision; the exact residuals are computed beside them."""
    block, exact = single_precision_block(net)
    limit = math.prod(float(norm(weight).max()) for weight in exact.weights)
    z = exact.value(2 * randn(1, count, 2, generator=seeded(41))).float()

    def residuals(x: Tensor) -> tuple[Tensor, Tensor, float]:
        r = block.value(x) - z
        rounding = r.double() - (exact.value(x.double()) - z.double())
        return r, r.norm(dim=-1), float(rounding.norm(dim=-1).max())

    x, path = z, []
    r, size, gamma = residuals(x)
    stopped = torch.zeros_like(size, dtype=torch.bool)
    while not stopped.all():
        path.append(size[0])
        step = x - r
        rounding = (step.double() - (x.double() - r.double())).norm(dim=-1).max()
        r_next, size_next, next_gamma = residuals(step)
        gamma = max(gamma, next_gamma, float(rounding))
        stopped = stopped | (size_next >= size)  # such a point stays where it is
        x = torch.where(stopped[..., None], x, step)
        r = torch.where(stopped[..., None], r, r_next)
        size = torch.where(stopped, size, size_next)
    solution = z.double()
    for _ in range(math.ceil(math.log(1e-15) / math.log(limit))):
        solution = z.double() - (exact.value(solution) - solution)
    return Stopped(limit, torch.stack(path).double(), size[0].double(), gamma, (x.double() - solution).norm(dim=-1)[0])


@functools.cache
def stopped_runs() -> dict[float, Stopped]:
    """Return the runs for the trained blocks."""
    return {lipschitz: stop_where_nothing_is_gained(net) for lipschitz, net in hard_blocks().items()}


def check_rn_stop() -> dict[str, float]:
    """Single precision against the same weights in double precision; then the library below its rounding floor."""
    for lipschitz, run in stopped_runs().items():
        limit, path, gamma = run.limit, run.path, run.gamma
        assert limit <= lipschitz * (1 + 1e-6)  # the rounded weights
        assert (path[1:] <= limit * path[:-1] + 3 * (1 + limit) * gamma).all()  # part 1
        assert run.size.max() <= run.floor < 1e-2 * path[0].max()  # part 2
        assert run.error.max() <= 6 * gamma / (1 - limit) ** 2  # part 3
        assert (run.error <= (run.size + gamma) / (1 - limit)).all()

    asked, rounds = 1e-30, 0.0
    for net in [*hard_blocks().values(), steep_network(3, 4, 16, 0.9, seed=140)]:
        truth = 2 * randn(300, net.dim, generator=seeded(42))
        best = net.solve_inverse(net(truth), tol=asked)
        assert (best.residual[best.converged] == 0).all()
        assert best.residual.max() < 1e-12  # numbers of size ten in float64
        assert ((best.x - truth).norm(dim=-1) <= best.error_bound).all()
        rounds = max(rounds, int(best.iterations.max()) / net.depth)

    wild = IResNet(2, blocks=1, lipschitz=0.9, dtype=torch.float64, generator=seeded(43)).requires_grad_(False)
    inner = 1e8  # numbers inside of the network: the first guess of the floor is too small
    wild.biases[0].fill_(inner)
    left = wild.solve_inverse(3 * randn(100, 2, generator=seeded(44)))
    assert not left.converged.all()
    assert left.iterations.max() < 50
    assert left.residual.max() < 1e-6
    return {
        "asked": asked,
        "rounds": rounds,
        "inner": inner,
        "wild_residual": float(left.residual.max()),
        "wild_rounds": int(left.iterations.max()),
    }


def bent(x: Tensor) -> Tensor:
    """Return x + f(x) with f(x) = .95 (s(x + 1) - s(x - 1) - x), s(t) = (t^2 + .01)^(1/2)."""
    return x + 0.95 * (((x + 1) ** 2 + 0.01).sqrt() - ((x - 1) ** 2 + 0.01).sqrt() - x)


def control_rn_stop() -> dict[str, float]:
    """Broken: L < 1, and the fixed-point step. For L = 1.2, and for a Newton step, the rule stops far away."""
    rounding_unit = torch.finfo(torch.float64).eps
    promised = 3 * (1 + LIPSCHITZ) / (1 - LIPSCHITZ) * 16 * rounding_unit  # numbers below 4

    def folding(x: Tensor) -> Tensor:
        return x - 1.2 * torch.tanh(x)

    x = torch.tensor(0.01, dtype=torch.float64)  # the datum is zero
    assert folding(x - folding(x)).abs() >= folding(x).abs() > 1e9 * promised

    x = torch.tensor(3.0, dtype=torch.float64)
    slope = torch.func.grad(bent)(x)
    assert bent(x - bent(x) / slope).abs() >= bent(x).abs() > 1e9 * promised
    assert bent(x - bent(x)).abs() < bent(x).abs()  # the fixed-point step does gain
    return {"left": float(bent(x))}


# Newton with inexact directions


def rate_of_coarse_directions() -> dict[str, float]:
    """Measure what a full step with a direction in single precision leaves of a small residual; compare with the bound.

    Points so close that the quadratic part is negligible; epsilon is the relative error of the direction.
    """
    net = hard_blocks()[LIPSCHITZ]
    x = 2 * randn(400, 2, generator=seeded(51))
    z = net(x + 1e-7 * randn(400, 2, generator=seeded(52)))
    value, jacobian = net.forward_and_jacobian(x)
    r = value - z
    exact = torch.linalg.solve(jacobian, r)
    coarse = torch.linalg.solve(jacobian.float(), r.float()).double()
    epsilon = ((coarse - exact).norm(dim=-1) / exact.norm(dim=-1)).max()
    factor = (net(x - coarse) - z).norm(dim=-1) / r.norm(dim=-1)
    assert factor.max() <= epsilon * (1 + LIPSCHITZ) / (1 - LIPSCHITZ) + 1e-4  # rest: quadratic, and rounding
    return {"factor": float(factor.median()), "epsilon": float(epsilon)}


def count_iterations(count: int = 600, tol: float = 1e-10) -> dict[str, float]:
    """Invert data through each trained block; return predicted rounds, those of the fixed point, and the library's."""
    generator = seeded(13)
    prior = testproblems.two_bumps()
    truth = torch.cat([prior.sample(count // 2, generator=generator), randn(count // 2, 2, generator=generator)])
    found: dict[str, float] = {"count": count, "tol": tol}
    for lipschitz, net in hard_blocks().items():
        z = net(truth)
        x, needed, first = z.clone(), torch.zeros(count), None
        while True:
            r = net(x) - z
            size = r.norm(dim=-1)
            first = float(size.max()) if first is None else first
            if (size <= tol).all():
                break
            needed += size > tol
            x = x - r
        predicted = math.ceil(math.log(tol / first) / math.log(lipschitz))
        library = net.solve_inverse(z, tol=tol)
        assert needed.max() <= predicted
        assert (library.x - truth).norm(dim=-1).max() <= library.error_bound.max()
        assert library.iterations.max() < 0.5 * needed.max()
        name = f"{round(100 * lipschitz)}"
        found |= {
            f"row_{name}": lipschitz,
            f"predicted_{name}": predicted,
            f"fixed_median_{name}": float(needed.median()),
            f"fixed_max_{name}": int(needed.max()),
            f"newton_median_{name}": float(library.iterations.double().median()),
            f"newton_max_{name}": int(library.iterations.max()),
        }
    return found


# The gradient of the inverse


def check_rn_gradient() -> dict[str, float]:
    """The library's gradient against central differences of the solver, and against 250 unrolled fixed-point steps.

    Differences with h = 1e-5: h^2 times a third derivative, and 1e-13 / h; unrolled: 0.8^250 is 1e-24.
    """
    generator = seeded(23)
    unrolled_gap, steps = 0.0, 250
    for n, blocks, lipschitz in [(2, 1, 0.8), (3, 1, 0.8), (2, 3, 0.9)]:
        net = steep_network(n, blocks, 8, lipschitz, seed=100 + n, gain=1.2).requires_grad_(True)
        z = 2 * randn(20, n, generator=generator)
        functional = randn(20, n, generator=generator)
        inputs = [*net.parameters(), z.requires_grad_(True)]
        implicit = torch.autograd.grad((functional * net.inverse(z, tol=1e-13)).sum(), inputs)
        size = flatten(implicit).abs().max()
        for _ in range(3):
            direction = [randn(*t.shape, generator=generator) for t in inputs]
            ends = [_solved(net, z.detach(), functional, direction, step) for step in (1e-5, -1e-5)]
            along = sum(float((g * d).sum()) for g, d in zip(implicit, direction, strict=True))
            scale = float(size * flatten(direction).norm())
            assert abs((ends[0] - ends[1]) / 2e-5 - along) < 1e-6 * scale
        if blocks == 1:
            x = z
            for _ in range(steps):
                x = z - (net(x) - x)
            unrolled = torch.autograd.grad((functional * x).sum(), inputs)
            unrolled_gap = max(unrolled_gap, float((flatten(unrolled) - flatten(implicit)).abs().max() / size))
    assert unrolled_gap < 1e-10
    return {"unrolled": steps, "gap": unrolled_gap}


@torch.no_grad()
def _solved(net: IResNet, z: Tensor, functional: Tensor, direction: Parts, step: float) -> float:
    """Return a linear functional of the inverse after a step of parameters and data."""
    for parameter, change in zip(net.parameters(), direction, strict=False):
        parameter.add_(step * change)
    x = net.solve_inverse(z + step * direction[-1], tol=1e-14).x
    for parameter, change in zip(net.parameters(), direction, strict=False):
        parameter.sub_(step * change)
    return float((functional * x).sum())


def fixed_point_attached() -> dict[str, float]:
    """Attach a fixed-point step instead of a Newton step: the value is right, the gradient is not."""
    net = hard_blocks()[0.9].requires_grad_(True)
    parameters = list(net.parameters())
    z = net(2 * randn(200, 2, generator=seeded(24))).detach()
    functional = randn(200, 2, generator=seeded(25))
    solution = net.solve_inverse(z, tol=1e-13)
    right = flatten(torch.autograd.grad((functional * net.inverse(z)).sum(), parameters))
    attached = z - (net(solution.x) - solution.x)
    gap = float((attached - solution.x).detach().abs().max())
    wrong = flatten(torch.autograd.grad((functional * attached).sum(), parameters))
    share = float((wrong - right).norm() / right.norm())
    net.requires_grad_(False)
    assert gap < 1e-11
    assert share > 0.1
    return {"value": gap, "gradient": 100 * share}


def quotient_in_theta(lipschitz: float, step: float) -> float:
    """Return the central difference in theta, at z = theta, of the solution of x - L tanh x + theta = z."""
    ends = []
    for change in (step, -step):
        low, high = -3.0, 3.0
        for _ in range(100):  # bisection: needs no derivative
            middle = 0.5 * (low + high)
            value = middle - lipschitz * math.tanh(middle) + change
            low, high = (middle, high) if value < 0 else (low, middle)
        ends.append(0.5 * (low + high))
    return (ends[0] - ends[1]) / (2 * step)


def control_rn_gradient() -> dict[str, float]:
    """Broken: L < 1, by as little as possible. For L < 1 difference quotients settle, for L = 1 they grow."""
    for lipschitz in (0.5, 0.9):  # step^2 times a third derivative, below 1e5 for L = 0.9
        assert abs(quotient_in_theta(lipschitz, 1e-6) + 1 / (1 - lipschitz)) < 1e-6
    growth = quotient_in_theta(1.0, 1e-6) / quotient_in_theta(1.0, 1e-3)
    assert growth > 50  # step^(-2/3) by Taylor's formula
    return {"growth": growth}
