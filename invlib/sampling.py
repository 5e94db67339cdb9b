"""Points to train and to test with: quasi-random ones, and plain samples.

Quasi-random points fill the cube more evenly than random ones: for smooth functions, the error of a mean over N of
them falls almost like 1/N instead of 1/sqrt(N) (Owen 1997, "Scrambled net variance for integrals of smooth functions").
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, cast, get_args

import torch
from torch import Tensor

from invlib import _checks
from invlib.samples import Samples

EDGE = 1e-12
"""Distance that quasi-random points keep from the faces of the cube, where quantiles are infinite."""

BITS = torch.quasirandom.SobolEngine.MAXBIT
"""Of a Sobol point in each coordinate."""

Shift = Literal["modulo", "digital"]
"""How the points of a member differ from those of another."""

LARGEST_SOBOL = torch.quasirandom.SobolEngine.MAXDIM

PROTOCOL = "a method sample(count, *, generator=None) that returns a tensor of shape (count, n)"


class Sampler(Protocol):
    """Anything that can draw samples of x: a prior, or a set of data."""

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `count` independent points, (count, n)."""


class QuasiPrior(Protocol):
    """A prior that can be reached from the unit cube."""

    dim: int

    def from_uniform(self, uniform: Tensor) -> Tensor:
        """Map uniform points, (..., n + 1), to points of the prior, (..., n)."""


def quasi_uniform(count: int, dim: int, *, seed: int) -> Tensor:
    """Return `count` scrambled Sobol points in the open unit cube, (count, dim), float64.

    Args:
        count: the number of points; powers of two are balanced best.
        dim: the dimension of the cube.
        seed: of the scrambling.

    Raises:
        ValueError: if `count` or `dim` is not a positive integer, or `seed` not an integer >= 0.

    Example:
        >>> quasi_uniform(4, 2, seed=0).shape
        torch.Size([4, 2])
    """
    engine = _sobol(dim, seed)
    points = engine.draw(_checks.count("count", count), dtype=torch.float64)
    return points.clamp(EDGE, 1 - EDGE)


def quasi_sample(prior: QuasiPrior, count: int, *, seed: int) -> Tensor:
    """Return a quasi-random sample of a prior, (count, n), float64.

    Args:
        prior: anything with `dim` and `from_uniform`.
        count: the number of points; powers of two are balanced best.
        seed: of the scrambling.

    Raises:
        ValueError: if `count` is not a positive integer or `seed` not an integer >= 0.
        TypeError: if `prior` has no `from_uniform`.

    Example:
        >>> from invlib import LogisticPrior
        >>> quasi_sample(LogisticPrior([1.0, 2.0]), 1024, seed=0).mean(0).abs().max() < 0.01
        tensor(True)
    """
    return QuasiRandom(prior, seed=seed).draw(count)


class QuasiRandom:
    """A sequence of quasi-random points of a prior, with standard normal noise beside them if asked for.

    One scrambled Sobol sequence serves all members. With `members=E`, each sees it shifted by a random vector of its
    own, so that their points are independent; without members it is not shifted. A shift modulo one keeps the sequence
    even only on average; a digital shift (exclusive or of the binary digits) keeps the evenness of every batch of 2^k
    points, and means over them come out several times more exact (Owen 1997, as above).

    Args:
        prior: anything with `dim` and `from_uniform`, or a sequence of E of them, one for each member.
        seed: of the scrambling; None draws it from `generator`.
        members: None, or the number E.
        noise_dim: the number of normal variables that come with each point.
        shift: "modulo" or "digital".
        generator: for the shifts (and the seed); None means one made from `seed`, or, without a seed, torch's global
            generator.

    Raises:
        ValueError: if a number does not fit.
        TypeError: if `prior` has no `from_uniform`.

    Example:
        >>> from invlib import LogisticPrior
        >>> points = QuasiRandom(LogisticPrior([1.0, 2.0]), seed=0, members=3, noise_dim=2)
        >>> x, noise = points.draw_with_noise(8)
        >>> x.shape, noise.shape
        (torch.Size([3, 8, 2]), torch.Size([3, 8, 2]))
    """

    def __init__(
        self,
        prior: QuasiPrior | Sequence[QuasiPrior],
        *,
        seed: int | None = None,
        members: int | None = None,
        noise_dim: int = 0,
        shift: Shift = "modulo",
        generator: torch.Generator | None = None,
    ) -> None:
        if members is not None:
            _checks.count("members", members)
        self.priors = _quasi_priors(prior, members)
        self.dim = _checks.count("prior.dim", self.priors[0].dim)
        size = self.dim + 1 + _checks.count("noise_dim", noise_dim, 0)

        if seed is None:
            seed = int(torch.randint(2**31, (), generator=generator))
        elif generator is None:
            generator = torch.Generator().manual_seed(_checks.count("seed", seed, 0))
        self.seed = _checks.count("seed", seed, 0)
        self.drawn = 0
        self._engine = _sobol(size, self.seed)
        if shift not in get_args(Shift):
            raise ValueError(f"shift must be 'modulo' or 'digital', got {shift!r}")
        self.shifts = (
            None if members is None else _shifts(shift, (members, 1, size), generator)
        )

    def draw(self, count: int) -> Tensor:
        """Return the next points, (count, n), or (E, count, n) with members, float64.

        Raises:
            ValueError: if `count` is not a positive integer.
        """
        return self.draw_with_noise(count)[0]

    def draw_with_noise(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the next points, (..., count, n), and standard normal noise, (..., count, noise_dim), float64.

        Raises:
            ValueError: if `count` is not a positive integer.
        """
        uniform = self._engine.draw(_checks.count("count", count), dtype=torch.float64)
        self.drawn += count
        if self.shifts is not None:
            uniform = _shifted(uniform, self.shifts)

        uniform = uniform.clamp(EDGE, 1 - EDGE)
        noise = torch.special.ndtri(uniform[..., self.dim + 1 :])
        return self._from_uniform(uniform[..., : self.dim + 1]), noise

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to continue with the same points."""
        return {"seed": self.seed, "drawn": self.drawn, "shifts": self.shifts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where another sequence stood.

        Raises:
            ValueError: if the other one had another dimension or number of members.
        """
        kinds = [
            None if s is None else (tuple(s.shape), s.dtype)
            for s in (self.shifts, state["shifts"])
        ]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"state must have shifts of shape and dtype {kinds[0]}, got {kinds[1]}"
            )

        self.seed, self.drawn, self.shifts = (
            state["seed"],
            state["drawn"],
            state["shifts"],
        )
        self._engine = _sobol(self._engine.dimension, self.seed)
        if self.drawn:
            self._engine.fast_forward(self.drawn)

    def _from_uniform(self, uniform: Tensor) -> Tensor:
        if len(self.priors) == 1:
            return self.priors[0].from_uniform(uniform)
        pairs = zip(self.priors, uniform, strict=True)
        return torch.stack([prior.from_uniform(points) for prior, points in pairs])


class PlainBatches:
    """Batches by `sample`, one call for each member in their order, with normal noise beside them.

    A data set (`Samples`) gives minibatches without replacement instead, each member in its own order.

    Args:
        priors: one for each member.
        dim: the dimension n that samples must have.
        generator: for every draw.
    """

    def __init__(
        self, priors: Sequence[Sampler], dim: int, generator: torch.Generator | None
    ) -> None:
        self.dim = dim
        self.generator = generator
        self.epochs = [
            prior.epochs(generator) for prior in priors if isinstance(prior, Samples)
        ]
        epochs = iter(self.epochs)
        self._sources: list[Callable[[int], object]] = [
            next(epochs).draw if isinstance(prior, Samples) else self._plain(prior)
            for prior in priors
        ]

    def draw_with_noise(self, count: int) -> tuple[Tensor, Tensor]:
        """Return points and standard normal noise, (E, count, n) each, float64."""
        shape = (count, self.dim)
        x = torch.stack([_checked_sample(draw(count), shape) for draw in self._sources])
        noise = torch.randn(x.shape, dtype=torch.float64, generator=self.generator)
        return x, noise

    def state_dict(self) -> dict[str, Any]:
        """Return what is not in the generator: the orders of the epochs."""
        return {"epochs": [epochs.state_dict() for epochs in self.epochs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where another one stood."""
        for epochs, saved in zip(self.epochs, state["epochs"], strict=True):
            epochs.load_state_dict(saved)

    def _plain(self, prior: Sampler) -> Callable[[int], object]:
        def draw(count: int) -> object:
            return prior.sample(count, generator=self.generator)

        return draw


def batches(
    priors: Sequence[Sampler],
    dim: int,
    generator: torch.Generator | None,
    shift: Shift = "modulo",
) -> QuasiRandom | PlainBatches:
    """Return the best source of points and noise for `priors`, one for each member: quasi-random where possible."""
    quasi_random = all(hasattr(prior, "from_uniform") for prior in priors)
    if not quasi_random or 2 * dim + 1 > LARGEST_SOBOL:
        return PlainBatches(priors, dim, generator)

    same = all(prior is priors[0] for prior in priors)
    chosen: Any = priors[0] if same else list(priors)
    return QuasiRandom(
        chosen, members=len(priors), noise_dim=dim, shift=shift, generator=generator
    )


def check_sampler(prior: object, dim: int) -> Sampler:
    """Return `prior` if it can be asked for samples of dimension `dim`; otherwise raise an error that names it."""
    if isinstance(prior, torch.distributions.Distribution):
        wrapped = "wrap a distribution of torch by invlib.priors.from_distribution"
        raise TypeError(f"prior must have {PROTOCOL}; {wrapped}, got {prior!r}")
    sample = getattr(prior, "sample", None)
    if not callable(sample):
        raise TypeError(f"prior must have {PROTOCOL}, got {prior!r}")
    if not _takes_generator(sample):
        raise TypeError(
            f"prior must have {PROTOCOL}; this one takes no generator: {prior!r}"
        )
    if getattr(prior, "dim", dim) != dim:
        raise ValueError(
            f"prior must live on R^{dim}, the space of problem, got {prior!r}"
        )
    return cast(Sampler, prior)


def _takes_generator(function: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built in, without a signature
        return True
    return any(
        p.name == "generator" or p.kind is inspect.Parameter.VAR_KEYWORD
        for p in parameters
    )


def _checked_sample(x: object, shape: tuple[int, int]) -> Tensor:
    """Return samples as float64 if they are a finite real tensor of the shape."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = f"dtype {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"prior must return samples as a real floating-point tensor of shape {shape}, got {found}"
        )
    if x.shape != shape:
        raise ValueError(
            f"prior must return finite samples of shape {shape}, got {tuple(x.shape)}"
        )
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"prior must return finite samples of shape {shape}, got {x}")
    return x.detach().to(torch.float64)


def _shifts(
    kind: Shift, shape: tuple[int, ...], generator: torch.Generator | None
) -> Tensor:
    if kind == "modulo":
        return torch.rand(shape, dtype=torch.float64, generator=generator)
    return torch.randint(2**BITS, shape, generator=generator)


def _shifted(uniform: Tensor, shifts: Tensor) -> Tensor:
    """Points of the sequence, (B, D), as each member sees them, (E, B, D); integer shifts are digital."""
    if shifts.is_floating_point():
        return (uniform + shifts) % 1.0
    digits = (uniform * 2**BITS).long() ^ shifts
    middles: Tensor = (digits.to(torch.float64) + 0.5) / 2**BITS
    return middles


def _sobol(dim: int, seed: int) -> torch.quasirandom.SobolEngine:
    _checks.count("dim", dim)
    if dim > LARGEST_SOBOL:
        raise ValueError(
            f"dim must be at most {LARGEST_SOBOL}, the largest dimension of a Sobol sequence, got {dim}"
        )
    seed = _checks.count("seed", seed, 0)
    return torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed)


def _quasi_priors(prior: object, members: int | None) -> list[QuasiPrior]:
    """One prior, or one for each member."""
    priors: list[Any] = list(prior) if isinstance(prior, (list, tuple)) else [prior]
    if isinstance(prior, (list, tuple)) and len(priors) != members:
        raise ValueError(
            f"prior must be one, or one for each of the {members} members, got {len(priors)}"
        )
    for each in priors:
        if not callable(getattr(each, "from_uniform", None)) or not hasattr(
            each, "dim"
        ):
            raise TypeError(
                f"prior must have dim and a method from_uniform(uniform), got {each!r}"
            )
    return priors
