"""Checks of the chapter on photographs: pictures, the variables of Wiener's filter, contestants, and one bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage import color, data, metrics, restoration, transform
from torch import Tensor, nn
from torch.nn import functional

import invlib
from checks.tools import random_prior, seeded
from invlib import ConvIResNet, GaussianMixture, LinearProblem, Samples

Numbers = dict[str, float]
"""What a page quotes, by name."""

TRAIN = ("astronaut", "coffee", "rocket", "brick", "gravel")
TEST = ("camera", "chelsea", "coins", "grass")
"""Photographs inside the package scikit-image; those to test on are never seen in training."""

GREY = 0.5
"""Taken off every value, so that pictures vary about zero."""

CROP = 24
"""Side of the training crops."""

FRAME, MARGIN = 144, 8
"""Side of the test pictures, and how much of it is not counted at each edge, where edges wrap around."""

OFFSET = 0.02
"""Keeps the model of the spectrum finite at frequency zero."""

TAU = 0.03
"""By how much the pictures are smoothed, where they are."""

TUNED = 0.62
"""The best strength on the test pictures, in units of the noise."""

TUNED_BLUR = 0.5
"""The best strength on the blurred test pictures."""

POOL = 4000
"""Training crops of the long runs."""

KEPT = (
    *("divergence", "divergence-smooth", "divergence-tuned", "other", "plain", "score"),
    *("divergence-tuned-blur", "other-blur", "plain-blur"),
)
"""Networks whose parameters are stored."""

STORE = Path(__file__).with_suffix(".npz")
"""What `experiments/photographs.py` found."""


# Pictures


@cache
def picture(name: str) -> Tensor:
    """Return a photograph in grey, at half of its resolution, with values from -1/2 to 1/2, (rows, columns)."""
    values = getattr(data, name)()
    grey = color.rgb2gray(values) if values.ndim == 3 else values / 255.0
    return torch.as_tensor(transform.downscale_local_mean(grey, (2, 2)), dtype=torch.float64) - GREY


def crops(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Return random crops of the training pictures, as often from each, turned and mirrored, (count, side, side)."""
    found = []
    for number in range(count):
        source = picture(TRAIN[number % len(TRAIN)])
        row, column = (int(torch.randint(size - side + 1, (), generator=generator)) for size in source.shape)
        turns, mirrored = torch.randint(4, (2,), generator=generator).tolist()
        crop = torch.rot90(source[row : row + side, column : column + side], turns)
        found.append(crop.flip(0) if mirrored % 2 else crop)
    return torch.stack(found)


def test_pictures() -> Tensor:
    """Return the middle of the test pictures, (4, FRAME, FRAME)."""
    found = []
    for name in TEST:
        source = picture(name)
        row, column = ((size - FRAME) // 2 for size in source.shape)
        found.append(source[row : row + FRAME, column : column + FRAME])
    return torch.stack(found)


def inner(pictures: Tensor) -> Tensor:
    """Return what is counted of pictures (..., FRAME, FRAME), as values from 0 to 1."""
    return (pictures[..., MARGIN:-MARGIN, MARGIN:-MARGIN] + GREY).clamp(0, 1)


def quality(found: Tensor, truth: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return PSNR (in dB) and SSIM of pictures (P, FRAME, FRAME), (P,) each."""
    pairs = list(zip(inner(truth).numpy(), inner(found).numpy(), strict=True))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    psnr = [metrics.peak_signal_noise_ratio(true, seen, data_range=1.0) for true, seen in pairs]
    ssim = [metrics.structural_similarity(true, seen, data_range=1.0, **options) for true, seen in pairs]
    return np.array(psnr), np.array(ssim)


# Convolutions on a grid that wraps around: functions of the discrete Laplacian


def laplacian(shape: tuple[int, int]) -> Tensor:
    """Return the symbol of the negative Laplacian, the sum of 2 - 2 cos, at the frequencies of the grid, `shape`."""
    rows, columns = (2 - 2 * (2 * math.pi * torch.fft.fftfreq(size, dtype=torch.float64)).cos() for size in shape)
    symbol: Tensor = rows[:, None] + columns
    return symbol


def convolve(symbol: Tensor, pictures: Tensor) -> Tensor:
    """Return pictures (..., rows, columns) after the convolution with a symbol (rows, columns)."""
    found: Tensor = torch.fft.ifft2(symbol * torch.fft.fft2(pictures)).real
    return found


def matrix(symbol: Tensor) -> Tensor:
    """Return the convolution as a matrix, (n, n)."""
    count = symbol.numel()
    units = torch.eye(count, dtype=torch.float64).reshape(count, *symbol.shape)
    return convolve(symbol, units).flatten(1).mT


@dataclass(frozen=True)
class Spectrum:
    """The model c (ell + OFFSET)^(-p) of the power spectrum of photographs; ell is the symbol of `laplacian`."""

    c: float
    p: float

    def at(self, shape: tuple[int, int]) -> Tensor:
        """Return the power at the frequencies of a grid, `shape`."""
        return self.c * (laplacian(shape) + OFFSET) ** -self.p


def fit_spectrum(pictures: Tensor) -> Spectrum:
    """Fit the model to the periodogram of pictures (P, side, side), by least squares of logarithms; tapered by Hann."""
    side = pictures.shape[-1]
    taper = torch.hann_window(side, dtype=torch.float64)
    window = taper[:, None] * taper
    mean = (pictures * window).sum((-2, -1), keepdim=True) / window.sum()
    power = torch.fft.fft2((pictures - mean) * window).abs().square().mean(0) / window.square().sum()
    ell = laplacian((side, side))
    seen = ell > ell[0, 3]  # below, the taper hides the spectrum
    left = torch.stack([torch.ones_like(ell[seen]), -(ell[seen] + OFFSET).log()], -1)
    log_c, p = torch.linalg.lstsq(left, power[seen].log()[:, None]).solution.flatten().tolist()
    return Spectrum(math.exp(log_c), p)


@cache
def spectrum() -> Spectrum:
    """Return the spectrum of the training pictures."""
    return fit_spectrum(crops(200, 96, seeded(5)))


# Inverse problems, and their variables


@dataclass(frozen=True)
class Case:
    """Denoising or deblurring, in pixels or in Wiener's variables u = W^{1/2} x with W = H + delta^2 / S.

    Attributes:
        spectrum: the model of S.
        noise: delta.
        blur: t of the blur exp(-t ell / 2), a Gaussian of about sqrt(t) pixels; zero for denoising.
        wiener: whether the variables are Wiener's; then its filter is the identity.
    """

    spectrum: Spectrum
    noise: float = 0.1
    blur: float = 0.0
    wiener: bool = False

    def operator(self, shape: tuple[int, int]) -> Tensor:
        """Return the symbol of A, `shape`."""
        return (-0.5 * self.blur * laplacian(shape)).exp()

    def filter(self, shape: tuple[int, int]) -> Tensor:
        """Return the symbol of W, the inverse of Wiener's filter for data z = A* y."""
        return self.operator(shape).square() + self.noise**2 / self.spectrum.at(shape)

    def root(self, shape: tuple[int, int]) -> Tensor:
        """Return the symbol that maps pictures to the variables."""
        return self.filter(shape).sqrt() if self.wiener else torch.ones(shape, dtype=torch.float64)

    def problem(self, side: int = CROP) -> LinearProblem:
        """Return the problem in the variables, on crops."""
        shape = (side, side)
        return LinearProblem(matrix(self.operator(shape) / self.root(shape)), self.noise)

    def measure(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return noisy measurements y of pictures (..., rows, columns)."""
        noise = torch.randn(x.shape, dtype=torch.float64, generator=generator)
        return convolve(self.operator(shape_of(x)), x) + self.noise * noise

    def datum(self, y: Tensor) -> Tensor:
        """Return the data in the variables, R^{-1} A* y."""
        return convolve(self.operator(shape_of(y)) / self.root(shape_of(y)), y)

    def variables(self, x: Tensor) -> Tensor:
        """Return pictures in the variables."""
        return convolve(self.root(shape_of(x)), x)

    def pixels(self, u: Tensor) -> Tensor:
        """Return pictures from the variables."""
        return convolve(1 / self.root(shape_of(u)), u)


def shape_of(pictures: Tensor) -> tuple[int, int]:
    """Return the size of pictures (..., rows, columns)."""
    rows, columns = pictures.shape[-2:]
    return rows, columns


class Photographs:
    """Crops as a prior, in the variables of a case, with fresh white noise whenever they are drawn.

    Args:
        pictures: (N, rows, columns).
        case: the variables.
        tau: standard deviation of the noise, in pixels: the density is smoothed by a Gaussian.
    """

    def __init__(self, pictures: Tensor, case: Case, tau: float = 0.0) -> None:
        self.samples, self.shape = Samples(pictures.flatten(1)), shape_of(pictures)
        self.case, self.tau = case, tau

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `count` points in the variables, (count, n)."""
        x = self.samples.sample(count, generator=generator)
        x = x + self.tau * torch.randn(x.shape, dtype=torch.float64, generator=generator)
        return self.case.variables(x.unflatten(-1, self.shape)).flatten(1)


# Contestants


class PlainNet(nn.Module):
    """A plain residual network, x minus layers of 3 x 3 convolutions: what one would use without wanting an inverse."""

    def __init__(self, channels: int = 8, layers: int = 7, generator: torch.Generator | None = None) -> None:
        super().__init__()
        sizes = [1, *[channels] * (layers - 1), 1]
        self.convolutions = nn.ModuleList()
        for inputs, outputs in pairwise(sizes):
            layer = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="circular")
            last = 0.1 if outputs == 1 else 1.0
            nn.init.normal_(layer.weight, 0.0, last * math.sqrt(2 / (9 * inputs)), generator=generator)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            self.convolutions.append(layer)
        self.shape = (CROP, CROP)

    def forward(self, x: Tensor) -> Tensor:
        """Return the estimates for data x, (B, n)."""
        hidden = x.reshape(-1, 1, *self.shape)
        for layer in self.convolutions[:-1]:
            hidden = functional.silu(layer(hidden))
        noise: Tensor = self.convolutions[-1](hidden).reshape(x.shape)
        return x - noise


def squared_error(case: Case, side: int = CROP) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Return the loss of a network that maps data, or in Wiener's variables Wiener's estimate, to pictures.

    It is half of the mean squared error of the pixels.
    """
    pixels = (1 / case.root((side, side))).float()

    def loss(net: nn.Module, x: Tensor, z: Tensor) -> Tensor:
        if case.wiener:
            x, z = (convolve(pixels, each.reshape(-1, side, side)).flatten(1) for each in (x, z))
        error: Tensor = 0.5 * (net(z) - x).square().sum(-1).mean()
        return error

    return loss


Method = Callable[[Tensor], Tensor]
"""From measurements y (P, rows, columns) to pictures."""


def wiener_filter(case: Case, y: Tensor, strength: float = 1.0, tau: float = 0.0) -> Tensor:
    """Return Wiener's estimate, for a strength in units of the noise and pictures that were smoothed."""
    shape = shape_of(y)
    operator, power = case.operator(shape), case.spectrum.at(shape) + tau**2
    return convolve(operator / (operator.square() + (strength * case.noise) ** 2 / power), y)


def total_variation(y: Tensor, weight: float, steps: int = 400) -> Tensor:
    """Return the pictures of least |x - y|^2 / 2 + weight * TV(x), by Chambolle's method."""
    options = {"weight": weight, "eps": 1e-5, "max_num_iter": steps}
    return torch.as_tensor(np.stack([restoration.denoise_tv_chambolle(each, **options) for each in y.numpy()]))


def total_variation_deblurring(case: Case, y: Tensor, weight: float, rho: float = 0.1, steps: int = 40) -> Tensor:
    """Return the pictures of least |A x - y|^2 / 2 + weight * TV(x), by the alternating direction method."""
    shape = shape_of(y)
    h, right = case.operator(shape).square(), convolve(case.operator(shape), y)
    x = wiener_filter(case, y)
    price = torch.zeros_like(x)
    for _ in range(steps):
        flat = total_variation(x + price, weight / rho, 60)
        price = price + x - flat
        x = convolve(1 / (h + rho), right + rho * (flat - price))
    return x


def non_local_means(y: Tensor, noise: float, h: float) -> Tensor:
    """Return what non-local means makes of pictures; patches of 5 x 5 in windows of 13 x 13."""
    options = {"patch_size": 5, "patch_distance": 6, "sigma": noise, "fast_mode": False}
    return torch.as_tensor(np.stack([restoration.denoise_nl_means(each, h=h, **options) for each in y.numpy()]))


def plug_and_play(case: Case, y: Tensor, denoise: Method, strength: float, tau: float = TAU, steps: int = 40) -> Tensor:
    """Solve H x + (strength / tau)^2 (x - D(x)) = A* y for a denoiser D at the noise tau, by iteration."""
    shape, ratio = shape_of(y), (strength / tau) ** 2
    h, right = case.operator(shape).square(), convolve(case.operator(shape), y)
    x = wiener_filter(case, y)
    for _ in range(steps):
        x = convolve(1 / (h + ratio), right + ratio * denoise(x))
    return x


def denoiser_inside(net: nn.Module, strength: float, tau: float = TAU) -> Method:
    """Return the denoiser x - (tau / strength)^2 (phi(x) - x) of a network phi, trained by the divergence for A = I."""
    return lambda x: x - (tau / strength) ** 2 * (applied(net, x) - x)


def on_grid(net: nn.Module, shape: tuple[int, int]) -> ConvIResNet | PlainNet:
    """Return a network on the grid of pictures of another size."""
    if isinstance(net, ConvIResNet):
        return net.on(shape)
    assert isinstance(net, PlainNet)
    net.shape = shape
    return net


def applied(net: nn.Module, pictures: Tensor, tol: float | None = None) -> Tensor:
    """Return net(pictures), or with `tol` its inverse at them, on the grid of the pictures (P, rows, columns)."""
    values, placed = pictures.flatten(1).float(), on_grid(net, shape_of(pictures))
    with torch.no_grad():
        if tol is not None and isinstance(placed, ConvIResNet):
            return placed.inverse(values, tol=tol).double().reshape(pictures.shape)
        found: Tensor = placed(values)
    return found.double().reshape(pictures.shape)


# Slopes


def jacobians(net: nn.Module, points: Tensor) -> Tensor:
    """Return the Jacobians of a network at pictures (P, rows, columns), (P, n, n)."""
    placed, values = on_grid(net, shape_of(points)), points.flatten(1).float()
    found: Tensor = torch.func.vmap(torch.func.jacfwd(lambda x: placed(x[None])[0]))(values)
    return found.detach().double()


def slopes(net: nn.Module, points: Tensor) -> Tensor:
    """Return the singular values of the Jacobian of a network at pictures, (P, n), falling."""
    found: Tensor = torch.linalg.svdvals(jacobians(net, points))
    return found


def wanted_slopes(case: Case, net: nn.Module, points: Tensor, strength: float, tau: float = TAU) -> Tensor:
    """Return the eigenvalues of the Jacobian of phi* in the variables of a case, at pictures, (P, n), falling.

    phi* belongs to the prior smoothed with tau; `net` is a denoiser of this noise.
    """
    shape = shape_of(points)
    back, normal = matrix(1 / case.root(shape)), matrix(case.operator(shape).square())
    jacobian = jacobians(net, points)
    rest = torch.eye(len(normal), dtype=torch.float64) - 0.5 * (jacobian + jacobian.mT)
    found: Tensor = torch.linalg.eigvalsh(back @ (normal + (strength / tau) ** 2 * rest) @ back)
    return found.flip(-1)


# What was stored


@cache
def stored() -> dict[str, Any]:
    """Return the arrays of the long runs."""
    with np.load(STORE, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def by_seed(prefix: str, key: str = "psnr") -> dict[str, np.ndarray]:
    """Return PSNR or SSIM of each method, for "noise" or "blur", (seeds, pictures); baselines have one seed."""
    arrays = stored()
    values = zip(arrays[f"{prefix}_names"].tolist(), arrays[f"{prefix}_{key}"], strict=True)
    return {name: each[np.isfinite(each).all(-1)] for name, each in values}


def rows(prefix: str) -> dict[str, Numbers]:
    """Return what a table says of each method: medians of the seeds, and ranges over seeds and over pictures."""
    psnr, ssim = by_seed(prefix), by_seed(prefix, "ssim")
    times = {key: stored()[f"{prefix}_{key}"] for key in ("training", "seconds")}
    found = {}
    for row, name in enumerate(psnr):
        seeds, pictures, alike = psnr[name].mean(-1), np.median(psnr[name], 0), ssim[name].mean(-1)
        found[name] = {
            **{"psnr": float(np.median(seeds)), "low": float(seeds.min()), "high": float(seeds.max())},
            **{"worst": float(pictures.min()), "best": float(pictures.max())},
            **{"ssim": float(np.median(alike)), "ssim_low": float(alike.min()), "ssim_high": float(alike.max())},
            "training": float(np.nanmedian(times["training"][row])),
            "seconds": float(np.nanmedian(times["seconds"][row])) / len(pictures),
        }
    return found


def kept(name: str) -> nn.Module:
    """Return a network with the parameters that were stored."""
    plain = name in ("plain", "score", "plain-blur")
    net: nn.Module = PlainNet() if plain else ConvIResNet((CROP, CROP), blocks=5, channels=16)
    vector = torch.tensor(stored()[f"weights_{name}"])
    nn.utils.vector_to_parameters(vector, net.parameters())
    return net.requires_grad_(False)


def draw_picture(ax: Any, values: np.ndarray, title: str) -> None:  # noqa: ANN401
    """Draw a grey picture of bytes, without axes."""
    ax.imshow(values, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_title(title, fontsize=9)
    ax.set_axis_off()


def smoothing_bound(noise: float, tau: float, largest: float = 1.0) -> float:
    """Return the largest slope that the divergence's minimizer can have for a prior smoothed with tau."""
    return largest + (noise / tau) ** 2


def smoothed(prior: GaussianMixture, tau: float) -> GaussianMixture:
    """Return the law of x + tau xi, xi standard normal."""
    eye = torch.eye(prior.dim, dtype=torch.float64)
    return GaussianMixture(prior.weights, prior.means, prior.covariances + tau**2 * eye)


def largest_slope(problem: LinearProblem, prior: GaussianMixture, x: Tensor) -> float:
    """Return the largest eigenvalue of H - delta^2 Hess log p over points x (B, n)."""
    curvature = problem.normal_operator - problem.noise_std**2 * prior.hessian(x)
    return float(torch.linalg.eigvalsh(curvature).max())


def denoiser(prior: GaussianMixture, tau: float, x: Tensor) -> Tensor:
    """Return E[x_0 | x_0 + tau xi = x] for a mixture x_0: the posterior mean of a problem with A = I."""
    problem = LinearProblem(torch.eye(prior.dim, dtype=torch.float64), tau)
    return invlib.posterior_mean(problem, prior, x)


def gap_of_scores(
    problem: LinearProblem, prior: GaussianMixture, plain: GaussianMixture, tau: float, x: Tensor
) -> float:
    """Return how far -delta^2 times the score of a prior is from (delta/tau)^2 (x - D(x)), with D for a plain one."""
    by_score = -(problem.noise_std**2) * prior.score(x)
    by_denoiser = (problem.noise_std / tau) ** 2 * (x - denoiser(plain, tau, x))
    return float((by_score - by_denoiser).abs().max())


def check_ph_slopes() -> Numbers:
    """Compare bound and formula with smoothed mixtures, at samples, for random operators; and where it is sharp.

    The score and the Hessian are those of the smoothed mixture in closed form; the denoiser is the library's posterior
    mean of the mixture that was not smoothed; the bound knows nothing of the prior. A narrow bump reaches it.
    """
    generator = seeded(1)
    shares, gaps = [], []
    for tau in (0.05, 0.2, 0.5):
        operator = torch.randn(4, 3, dtype=torch.float64, generator=generator)
        problem, plain = LinearProblem(operator, 0.4), random_prior(3, generator, components=4)
        prior = smoothed(plain, tau)
        x = prior.sample(2000, generator=generator)
        gaps.append(gap_of_scores(problem, prior, plain, tau, x))
        bound = smoothing_bound(0.4, tau, float(problem.singular_values[0] ** 2))
        shares.append(largest_slope(problem, prior, x) / bound)
    assert max(shares) <= 1 + 1e-9
    assert max(gaps) < 1e-9  # rounding, times (delta / tau)^2
    thin = GaussianMixture([1.0], torch.zeros(1, 3), 1e-8 * torch.eye(3)[None])
    problem = LinearProblem(torch.eye(3), 0.4)
    sharp = largest_slope(problem, smoothed(thin, 0.2), torch.zeros(1, 3, dtype=torch.float64))
    sharp = sharp / smoothing_bound(0.4, 0.2)
    assert 1 - 1e-5 < sharp <= 1 + 1e-9
    return {"most": max(shares), "sharp": sharp, "gap": max(gaps)}


def control_ph_slopes() -> Numbers:
    """Break the assumption: a prior with a thin bump that was not smoothed. Bound and formula for tau = 0.2 fail."""
    thin = GaussianMixture([1.0], torch.zeros(1, 3), 1e-4 * torch.eye(3)[None])
    problem = LinearProblem(torch.eye(3), 0.4)
    x = torch.zeros(1, 3, dtype=torch.float64)
    ratio = largest_slope(problem, thin, x) / smoothing_bound(0.4, 0.2)
    assert ratio > 100
    assert gap_of_scores(problem, thin, thin, 0.2, x + 0.01) > 10
    return {"ratio": ratio}
