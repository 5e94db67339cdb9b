r"""The highest mode of a Gaussian mixture, with a bound on how much higher any other point can be.

Newton's method climbs from many starts; then it is proved that nothing higher was missed:

- one component has one mode;
- the modes of two components lie on a curve, the ridgeline of Ray & Lindsay (2005, *Annals of Statistics* 33), where
  they are the roots of one equation: all of them are found by interval bisection;
- in up to three dimensions boxes that could hold a higher point are halved until none is left (branch and bound);
- otherwise the components that are far from each other are bounded one by one.

Modes of posteriors: `book/point-estimators.md`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, combinations, islice

import torch
from torch import Tensor

from invlib.ascent import maximize
from invlib.priors import CHUNK, Components

TOLERANCE = 1e-7
"""Where no point can be higher than the mode by more than this, the search stops."""

ROUNDING = 1e-14
"""More than the relative rounding error of a few operations in float64."""

FINEST = 1e-7
"""Intervals of the ridgeline's parameter, logit alpha, that are this short are not halved."""

BOXES = 20_000
"""The most boxes that the search may hold for one mixture."""

LEVELS = 60
"""How often a box, or an interval, may be halved."""


@dataclass(frozen=True)
class Highest:
    """The highest modes that were found for B mixtures.

    Attributes:
        points: (B, n).
        gap: (B,), how much higher the logarithm of the density can be elsewhere; inf if unknown.
        settled: (B,), whether Newton's method arrived.
    """

    points: Tensor
    gap: Tensor
    settled: Tensor


def highest_modes(mixtures: Components) -> Highest:
    """Return the highest mode of each of B mixtures: log_weights (B, K), means (B, K, n)."""
    count, _, dim = mixtures.means.shape
    if count == 0:
        empty = mixtures.means.new_zeros(0)
        return Highest(mixtures.means.new_zeros(0, dim), empty, empty > 0)

    parts = [_highest(part) for part in _in_parts(mixtures)]
    points = torch.cat([part.points for part in parts])
    gap = torch.cat([part.gap for part in parts])
    settled = torch.cat([part.settled for part in parts])
    return Highest(points, gap, settled)


def best_of(
    owner: Tensor, points: Tensor, heights: Tensor, settled: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return the highest point, (count, n), of each owner, and whether it has settled, (count,).

    Of points that are equally high up to rounding, the one with the largest first coordinate is taken, then the second
    coordinate decides, and so on: so the answer does not depend on the order of the points.

    Args:
        owner: (P,), to whom each point belongs, from 0 to count - 1; each owns at least one.
        points: (P, n).
        heights: (P,).
        settled: (P,).
        count: the number of owners.
    """
    heights = torch.where(heights.isnan(), -torch.inf, heights)
    best = _largest(owner, heights, count)[owner]
    slack = 1e-12 + 1e-13 * best.abs().clamp_max(1e300)
    tied = heights >= best - slack

    size = _largest(owner, points.abs().amax(-1), count)[owner]

    for values in (settled * size, *points.mT):
        if int(tied.sum()) == count:
            break
        most = _largest(owner, torch.where(tied, values, -torch.inf), count)[owner]
        tied &= values >= most - 1e-7 * size

    rows = torch.full((count,), len(owner), dtype=torch.long)
    candidates = torch.where(tied, torch.arange(len(owner)), len(owner))
    rows = rows.scatter_reduce(0, owner, candidates, "amin").clamp_max(len(owner) - 1)
    return points[rows], settled[rows]


def _highest(mixtures: Components) -> Highest:
    count, components, dim = mixtures.means.shape
    if components == 1:
        settled = torch.ones(count, dtype=torch.bool)
        return Highest(
            mixtures.means[:, 0], torch.zeros(count, dtype=torch.float64), settled
        )

    if components == 2:
        owner, starts, bound = _ridgeline(mixtures)
        points, settled = _climb(mixtures, owner, starts)
        return Highest(
            points, (bound - _heights(mixtures, points)).clamp_min(0), settled
        )

    owner, starts = _starts(mixtures)
    points, settled = _climb(mixtures, owner, starts)

    gap = mixtures.log_peaks.logsumexp(-1) - _heights(mixtures, points)
    gap = gap.clamp_min(0)
    open_cases = (gap > TOLERANCE).nonzero().flatten()
    if len(open_cases) == 0:
        return Highest(points, gap, settled)

    rest = _select(mixtures, open_cases)
    if dim <= 3:
        better, higher, arrived = _branch_and_bound(
            rest, points[open_cases], settled[open_cases]
        )
        points[open_cases], settled[open_cases] = better, arrived
    else:
        higher = _bound_one_by_one(rest, _heights(rest, points[open_cases]))
    gap[open_cases] = higher.minimum(gap[open_cases])
    return Highest(points, gap, settled)


def _in_parts(mixtures: Components) -> Iterator[Components]:
    """Mixtures in groups that fit into memory."""
    count, components, dim = mixtures.means.shape
    starts = 128 if dim <= 3 else 32
    size = (components + starts) * max(components * dim, dim * dim)
    for rows in torch.split(torch.arange(count), max(1, CHUNK // size)):
        yield _select(mixtures, rows)


def _select(mixtures: Components, rows: Tensor) -> Components:
    return Components(
        mixtures.log_weights[rows], mixtures.means[rows], mixtures.whiteners
    )


def _heights(mixtures: Components, points: Tensor) -> Tensor:
    """The log-density, (B,), of each mixture at its own point, (B, n)."""
    return mixtures.log_prob(points)


def _largest(owner: Tensor, values: Tensor, count: int) -> Tensor:
    """The largest value of each owner, (count,)."""
    start = torch.full((count,), -torch.inf, dtype=values.dtype)
    return start.scatter_reduce(0, owner, values, "amax")


def _climb(
    mixtures: Components, owner: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor]:
    """Climb from all starts, (P, n), and return the highest point of each mixture and whether it has settled."""

    def value(x: Tensor, log_weights: Tensor, means: Tensor) -> Tensor:
        return Components(log_weights, means, mixtures.whiteners).log_prob(x)

    def derivatives(
        x: Tensor, log_weights: Tensor, means: Tensor
    ) -> tuple[Tensor, Tensor]:
        return Components(log_weights, means, mixtures.whiteners).score_and_hessian(x)

    data = (mixtures.log_weights[owner], mixtures.means[owner])
    points, settled = maximize(value, derivatives, starts, data=data)
    return best_of(owner, points, value(points, *data), settled, len(mixtures.means))


# Starts


def _starts(mixtures: Components) -> tuple[Tensor, Tensor]:
    """The owners, (P,), and the points, (P, n), that are highest among the candidates.

    Candidates are the means of the components and of the whole, and the means of products of up to n + 1 of the
    heaviest components, where their ridges cross.
    """
    weights = mixtures.log_weights.softmax(-1)
    whole = torch.einsum("bk,bki->bi", weights, mixtures.means).unsqueeze(1)
    candidates = torch.cat([mixtures.means, whole, _products(mixtures)], dim=1)

    nested = Components(
        mixtures.log_weights.unsqueeze(1),
        mixtures.means.unsqueeze(1),
        mixtures.whiteners,
    )
    heights = nested.log_prob(candidates)
    number = min(8 if mixtures.means.shape[-1] <= 3 else 16, candidates.shape[1])
    best = heights.topk(number, dim=1).indices
    owner = torch.arange(len(best)).unsqueeze(1).expand_as(best).flatten()
    return owner, candidates[owner, best.flatten()]


def _products(mixtures: Components) -> Tensor:
    """The means of the products of up to n + 1 of the heaviest components, (B, S, n)."""
    components, dim = mixtures.means.shape[-2:]
    heaviest = mixtures.log_peaks.topk(min(components, 16), dim=-1).indices

    sizes = range(2, dim + 2)
    subsets = chain.from_iterable(
        combinations(range(heaviest.shape[1]), size) for size in sizes
    )
    chosen = list(islice(subsets, 128 if dim <= 3 else 15))
    indicator = torch.tensor(
        [[float(k in subset) for k in range(heaviest.shape[1])] for subset in chosen],
        dtype=torch.float64,
    )

    precisions = (mixtures.whiteners.mT @ mixtures.whiteners)[heaviest]
    means = mixtures.means.gather(1, heaviest.unsqueeze(-1).expand(-1, -1, dim))
    pull = (precisions @ means.unsqueeze(-1)).squeeze(-1)

    total = torch.einsum("sk,bkij->bsij", indicator, precisions)
    pulls = torch.einsum("sk,bki->bsi", indicator, pull)
    centres: Tensor = torch.linalg.solve(total, pulls.unsqueeze(-1))
    return centres.squeeze(-1)


# Two components


class _Ridge:
    r"""The ridgeline of two components, in coordinates in which both covariances are diagonal.

    It is $x(\alpha) = ((1 - \alpha) P_1 + \alpha P_2)^{-1} ((1 - \alpha) P_1 m_1 + \alpha P_2 m_2)$, and x is critical
    if and only if alpha is the responsibility of the second component there. With $t = \mathrm{logit}\,\alpha$ this
    reads $h(t) = D(\alpha) - t = 0$, where D is the logarithm of the ratio of the two weighted densities. D increases
    with alpha, the density falls along the ridge away from either mean, and a mode is a root where h decreases.
    """

    def __init__(self, mixtures: Components) -> None:
        first, second = mixtures.whiteners
        identity = torch.eye(len(first), dtype=torch.float64)
        inverse = torch.linalg.solve_triangular(first, identity, upper=False)
        if not torch.equal(first, first.tril()):
            inverse = torch.linalg.inv(first)
        _, stretch, axes = torch.linalg.svd(second @ inverse)

        self.ratio = stretch.square()  # P_2 relative to P_1
        self.back: Tensor = inverse @ axes.mT
        self.origin = mixtures.means[:, 0]
        self.apart = (mixtures.means[:, 1] - mixtures.means[:, 0]) @ (axes @ first).mT
        self.peaks = mixtures.log_peaks

    def terms(self, owner: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squared distances from both means, (P,), and the terms, (P, n), whose sum is dD/d alpha."""
        alpha, beta = torch.sigmoid(t).unsqueeze(-1), torch.sigmoid(-t).unsqueeze(-1)
        both = beta + alpha * self.ratio
        squares = self.apart[owner].square()
        from_first = (squares * (alpha * self.ratio / both).square()).sum(-1)
        from_second = (squares * self.ratio * (beta / both).square()).sum(-1)
        return from_first, from_second, squares * self.ratio.square() / both**3

    def log_ratio(
        self, owner: Tensor, from_first: Tensor, from_second: Tensor
    ) -> Tensor:
        difference = self.peaks[owner, 1] - self.peaks[owner, 0]
        return difference + 0.5 * (from_first - from_second)

    def points(self, owner: Tensor, t: Tensor) -> Tensor:
        alpha, beta = torch.sigmoid(t).unsqueeze(-1), torch.sigmoid(-t).unsqueeze(-1)
        moved = self.apart[owner] * (alpha * self.ratio / (beta + alpha * self.ratio))
        points: Tensor = self.origin[owner] + moved @ self.back.mT
        return points

    def ends(self) -> tuple[Tensor, Tensor]:
        """An interval, (B,) each, that holds all roots."""
        difference = self.peaks[:, 1] - self.peaks[:, 0]
        squares = self.apart.square()
        low = difference - 0.5 * (squares * self.ratio).sum(-1)
        high = difference + 0.5 * squares.sum(-1)
        margin = 1 + 1e-9 * low.abs().maximum(high.abs())
        return low - margin, high + margin


def _ridgeline(mixtures: Components) -> tuple[Tensor, Tensor, Tensor]:
    """All modes of mixtures of two: owners, (P,), points, (P, n), and a bound of the density elsewhere, (B,)."""
    ridge, count = _Ridge(mixtures), len(mixtures.means)
    bound = torch.full((count,), -torch.inf, dtype=torch.float64)

    low, high = ridge.ends()
    share = torch.linspace(0, 1, 17, dtype=torch.float64)
    cuts = low.unsqueeze(-1) + (high - low).unsqueeze(-1) * share
    owner = torch.arange(count).repeat_interleave(16)
    low, high = cuts[:, :-1].flatten(), cuts[:, 1:].flatten()

    found = []
    for _ in range(LEVELS):
        falling, unclear = _classify(ridge, owner, low, high)
        found.append((owner[falling], low[falling], high[falling]))
        owner, low, high = owner[unclear], low[unclear], high[unclear]
        if len(owner) == 0 or float((high - low).max()) <= FINEST:
            break
        middle = 0.5 * (low + high)
        owner = owner.repeat(2)
        low, high = torch.cat([low, middle]), torch.cat([middle, high])

    if len(owner) > 0:  # intervals that are as good as points
        from_first, _, _ = ridge.terms(owner, low)
        _, from_second, _ = ridge.terms(owner, high)
        peaks = ridge.peaks[owner]
        above = torch.logaddexp(
            peaks[:, 0] - 0.5 * from_first, peaks[:, 1] - 0.5 * from_second
        )
        bound = bound.scatter_reduce(0, owner, above, "amax")
        found.append((owner, low, high))

    lost = torch.ones(count, dtype=torch.bool)
    lost[torch.cat([part[0] for part in found])] = False
    # Rounding errors have hidden a root: nothing better is known than the sum of both peaks
    if bool(lost.any()):
        low, high = ridge.ends()
        found.append((lost.nonzero().flatten(), low[lost], high[lost]))
        bound = torch.where(lost, ridge.peaks.logsumexp(-1), bound)

    owner, low, high = (torch.cat(parts) for parts in zip(*found, strict=True))
    root = _bisect(ridge, owner, low, high)
    return owner, ridge.points(owner, root), bound


def _classify(
    ridge: _Ridge, owner: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Which intervals hold exactly one root, a falling one, and which are unclear; the others hold no mode."""
    middle = 0.5 * (low + high)
    *at_low, slope_low = ridge.terms(owner, low)
    *at_high, slope_high = ridge.terms(owner, high)
    *at_middle, _ = ridge.terms(owner, middle)
    h_low = ridge.log_ratio(owner, *at_low) - low
    h_high = ridge.log_ratio(owner, *at_high) - high
    h_middle = ridge.log_ratio(owner, *at_middle) - middle

    # The slope dh/dt = alpha (1 - alpha) dD/d alpha - 1: each factor is largest and least at an end, or at t = 0.
    spread_low = torch.sigmoid(low) * torch.sigmoid(-low)
    spread_high = torch.sigmoid(high) * torch.sigmoid(-high)
    most = torch.where((low < 0) & (high > 0), 0.25, spread_low.maximum(spread_high))
    steepest = most * slope_low.maximum(slope_high).sum(-1) - 1
    flattest = (
        spread_low.minimum(spread_high) * slope_low.minimum(slope_high).sum(-1) - 1
    )

    size = ridge.peaks[owner].abs().sum(-1) + at_middle[0] + at_middle[1] + middle.abs()
    reach = 0.5 * (high - low) * steepest.abs().maximum(flattest.abs())
    no_root = h_middle.abs() > reach + ROUNDING * (1 + size)
    falls, rises = steepest < -ROUNDING, flattest > ROUNDING
    one_root = falls & (h_low >= 0) & (h_high <= 0)
    return one_root & ~no_root, ~(no_root | rises | falls)


def _bisect(ridge: _Ridge, owner: Tensor, low: Tensor, high: Tensor) -> Tensor:
    for _ in range(50):
        middle = 0.5 * (low + high)
        from_first, from_second, _ = ridge.terms(owner, middle)
        above = ridge.log_ratio(owner, from_first, from_second) - middle > 0
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return 0.5 * (low + high)


# Branch and bound


class _Landscape:
    """Mixtures in common coordinates, in which the mean of their precision matrices is the identity."""

    def __init__(self, mixtures: Components, heights: Tensor) -> None:
        factor = torch.linalg.cholesky(
            (mixtures.whiteners.mT @ mixtures.whiteners).mean(0)
        )
        self.to_x = torch.linalg.inv(factor)  # x = y @ to_x
        self.whiteners = mixtures.whiteners @ self.to_x.mT
        self.means = mixtures.means @ factor
        self.peaks = mixtures.log_peaks
        self.heights = heights

    def region(self) -> tuple[Tensor, Tensor]:
        """Centre and half size, (B, n) each, of a box with all points that are higher than the known height.

        There one of the K components reaches the height, less log K: a union of ellipsoids.
        """
        components = self.means.shape[1]
        drop = 2 * (
            self.peaks - self.heights.unsqueeze(-1) + math.log(components) + 1e-6
        )
        spread = torch.linalg.inv(self.whiteners).square().sum(-1).sqrt()
        reach = drop.clamp_min(0).sqrt().unsqueeze(-1) * spread
        kept = (drop > 0).unsqueeze(-1)
        low = torch.where(kept, self.means - reach, torch.inf).amin(1)
        high = torch.where(kept, self.means + reach, -torch.inf).amax(1)
        return 0.5 * (low + high), 0.5 * (high - low)

    def bounds(
        self, owner: Tensor, centre: Tensor, half: Tensor, radius: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""Upper bounds over boxes, (P,), and the heights of their centres, (P,), both above the known heights.

        The first bound adds up the largest value of each component. The second is Taylor's: the third derivative of
        $e^{-|u|^2/2}$ along a unit vector is at most `_third(|u|)`.
        """
        peaks = self.peaks[owner] - self.heights[owner].unsqueeze(-1)
        away = torch.einsum(
            "kij,pkj->pki", self.whiteners, centre.unsqueeze(1) - self.means[owner]
        )
        distance = away.norm(dim=-1)
        nearest = (distance - radius).clamp_min(0)
        first = torch.logsumexp(peaks - 0.5 * nearest.square(), dim=-1)

        weights = (peaks - 0.5 * distance.square()).exp()
        scores = -torch.einsum("pki,kij->pkj", away, self.whiteners)
        density = weights.sum(-1)
        slope = torch.einsum("pk,pki->pi", weights, scores)
        hessian = scores.mT @ (weights.unsqueeze(-1) * scores)
        hessian = hessian - torch.einsum(
            "pk,kij->pij", weights, self.whiteners.mT @ self.whiteners
        )

        linear = (slope.abs() * half).sum(-1)
        diagonal = hessian.diagonal(dim1=-2, dim2=-1)
        mixed = (half.unsqueeze(-2) * hessian.abs() * half.unsqueeze(-1)).sum((-2, -1))
        quadratic = 0.5 * (
            mixed - ((diagonal.abs() - diagonal.clamp_min(0)) * half.square()).sum(-1)
        )
        cubic = (peaks.exp() * _third(nearest) * radius**3).sum(-1) / 6
        second = (density + linear + quadratic + cubic).log()
        return first.minimum(second), density.log()


def _third(distance: Tensor) -> Tensor:
    r"""A bound of the third derivatives of $e^{-|u|^2/2}$ along unit vectors, for $|u|$ at least `distance`.

    Along a unit vector at which u has the coordinate t it is $(3t - t^3) e^{-|u|^2/2}$.
    """
    decay = torch.exp(-0.5 * distance.square())
    near = torch.where(distance < 1, 1.3802, (2 * decay).clamp_min(0.3753))
    return torch.where(distance < 2.34, near, (distance**3 - 3 * distance) * decay)


def _branch_and_bound(
    mixtures: Components, points: Tensor, settled: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return better points where there are any, the gap, (B,), and whether the points have settled."""
    points, settled = points.clone(), settled.clone()
    heights = _heights(mixtures, points)
    mixtures, dropped = _heavy_components(mixtures, heights)
    land = _Landscape(mixtures, heights)

    count, dim = points.shape
    gap = torch.full((count,), TOLERANCE, dtype=torch.float64)
    centre, size = land.region()
    owner = torch.arange(count)
    corners = torch.cartesian_prod(
        *[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * dim
    ).reshape(-1, dim)

    for level in range(LEVELS):
        half = size / 2**level
        radius = (
            torch.einsum("kij,sj,bj->bksi", land.whiteners, corners, half)
            .norm(dim=-1)
            .amax(-1)
        )
        above, value = _evaluate(land, owner, centre, half, radius)

        _improve(mixtures, land, points, settled, owner, centre, value)
        improvement = land.heights - heights
        heights = land.heights.clone()
        above = torch.logaddexp(above - improvement[owner], (dropped - heights)[owner])

        alive = above > 0.5 * TOLERANCE
        owner, centre, above = owner[alive], centre[alive], above[alive]
        number = torch.bincount(owner, minlength=count)
        stop = (number * 2**dim > BOXES) | (level == LEVELS - 1)
        given_up = stop[owner]
        gap = gap.maximum(_largest(owner[given_up], above[given_up], count))

        owner, centre = owner[~given_up], centre[~given_up]
        if len(owner) == 0:
            break
        centre = (
            centre.unsqueeze(1) + 0.5 * half[owner].unsqueeze(1) * corners
        ).flatten(0, 1)
        owner = owner.repeat_interleave(len(corners))

    return points, gap, settled


def _heavy_components(
    mixtures: Components, heights: Tensor
) -> tuple[Components, Tensor]:
    """The components that matter anywhere, and the logarithm of a bound, (B,), on the sum of all others."""
    peaks = mixtures.log_peaks
    heavy = (peaks > heights.unsqueeze(-1) - 40 - math.log(peaks.shape[1])).any(0)
    if bool(heavy.all()):
        return mixtures, torch.full_like(heights, -torch.inf)

    dropped = peaks[:, ~heavy].logsumexp(-1)
    kept = Components(
        mixtures.log_weights[:, heavy],
        mixtures.means[:, heavy],
        mixtures.whiteners[heavy],
    )
    return kept, dropped


def _evaluate(
    land: _Landscape, owner: Tensor, centre: Tensor, half: Tensor, radius: Tensor
) -> tuple[Tensor, Tensor]:
    rows = max(1, CHUNK // land.means[0].numel() // 4)
    results = [
        land.bounds(some, middle, half[some], radius[some])
        for some, middle in zip(
            torch.split(owner, rows), torch.split(centre, rows), strict=True
        )
    ]
    above, value = zip(*results, strict=True)
    return torch.cat(above), torch.cat(value)


def _improve(
    mixtures: Components,
    land: _Landscape,
    points: Tensor,
    settled: Tensor,
    owner: Tensor,
    centre: Tensor,
    value: Tensor,
) -> None:
    """Where the centre of a box is higher than the best point, climb from it; all in place."""
    best = _largest(owner, value, len(points))
    chosen = (value > 1e-10) & (value >= best[owner])
    if not bool(chosen.any()):
        return

    lucky, where = torch.unique(owner[chosen], return_inverse=True)
    some = _select(mixtures, lucky)
    climbed, arrived = _climb(some, where, centre[chosen] @ land.to_x)
    reached = _heights(some, climbed)
    higher = reached > land.heights[lucky]
    points[lucky[higher]] = climbed[higher]
    settled[lucky[higher]] = arrived[higher]
    land.heights[lucky[higher]] = reached[higher]


# Many dimensions


def _bound_one_by_one(mixtures: Components, heights: Tensor) -> Tensor:
    """Return how much higher than `heights`, (B,), the density can be.

    At a higher point the largest component j is at least the height, less log K: so the point lies in an ellipsoid
    around its mean, and there the other components are at most what their distance from the ellipsoid allows. If that
    is little, component j must be nearly as large as the height, and the ellipsoid shrinks.
    """
    peaks = mixtures.log_peaks - heights.unsqueeze(-1)
    components = peaks.shape[1]
    inverse = torch.linalg.inv(mixtures.whiteners)
    gap = torch.zeros_like(heights)

    for j in range(components):
        reach = _reach(peaks[:, j] + math.log(components))
        if not bool((reach > 0).any()):
            continue

        stretch = torch.linalg.matrix_norm(mixtures.whiteners @ inverse[j], ord=2)
        apart = mixtures.means[:, j].unsqueeze(1) - mixtures.means
        distance = torch.einsum("kij,bkj->bki", mixtures.whiteners, apart).norm(dim=-1)
        foreign = torch.arange(components) != j

        for _ in range(4):
            nearest = (distance - stretch * reach.unsqueeze(-1)).clamp_min(0)
            others = torch.logsumexp(
                (peaks - 0.5 * nearest.square())[:, foreign], dim=-1
            )
            # Of component j, at a higher point
            needed = torch.log1p(-others.exp().clamp_max(1.0))
            possible = reach > 0
            reach = torch.where(
                possible, reach.minimum(_reach(peaks[:, j] - needed)), reach
            )

        total = torch.logaddexp(peaks[:, j], others)
        gap = torch.where(possible & (reach > 0), gap.maximum(total), gap)

    return gap


def _reach(drop: Tensor) -> Tensor:
    """How far from its mean, in standard deviations, a component falls by a logarithm, with room for rounding."""
    return (2 * (drop + 1e-9)).clamp_min(0).sqrt()
