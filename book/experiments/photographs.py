"""The long runs behind the chapter on photographs.

In the folder `book`, on one thread (OMP_NUM_THREADS=1)::

    python -m experiments.photographs train NAME --seed S    train one network of RUNS: less than a minute each
    python -m experiments.photographs evaluate               test all methods, and store the arrays; again, to go on
    python -m experiments.photographs evaluate --minutes 5   test nothing new after so long

Networks, and the pictures that every method makes, are kept in a folder of work (`--work`). The arrays
go to `checks/photographs.npz`, with the seconds that everything took. Numbers of a seed whose network is not
in the folder stay as they are in that file: delete it to have everything anew.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checks import photographs as photos
from checks.photographs import TAU, TUNED, TUNED_BLUR, Case, Photographs, PlainNet
from checks.tools import seeded
from torch import Tensor, nn

from invlib import ConvIResNet, Samples, train

SEEDS = (0, 1, 2)
NOISE = 1
"""Seed of the noise of the test."""

TV_DENOISING = (0.05, 0.06, 0.07, 0.08)
TV_DEBLURRING = (0.001, 0.002, 0.003, 0.004, 0.006)
NLM = (0.1, 0.11, 0.12)
STRENGTHS = (0.55, 0.62, 0.7)
PLUGGED = (0.42, 0.5, 0.6, 0.7)
CARRIED = (0.3, 0.4, 0.5, 0.6)
"""What the baselines are tuned over; strengths are in units of the noise."""

CASES: dict[str, dict[str, float]] = {"noise": {"noise": 0.1}, "blur": {"noise": 0.03, "blur": 2.0}}
"""What is tested."""

SHOWN, WINDOW = 0, (slice(0, 64), slice(22, 86))
"""Which picture the galleries show, and which part."""

GALLERY = {
    "noise": ["measurement", "tv", "pnp", "plain", "divergence", "divergence-tuned", "other"],
    "blur": ["measurement", "wiener", "tv", "pnp", "plain", "other", "divergence-tuned", "carried"],
}


APART = {
    "noise": [("divergence", "pnp-full"), ("divergence-tuned", "pnp")],
    "blur": [("divergence-tuned", name) for name in ("affine", "wiener", "pnp")],
}
"""Methods whose pictures are compared."""


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        loss: one of the four, "plain" (a plain network), "other" (an invertible network from data to pictures).
        steps: of the training.
        tau: by how much the pictures are smoothed.
        blocks: of an invertible network.
        channels: of an invertible network.
        noise: delta.
        blur: of the operator.
        wiener: whether the variables are those of Wiener's filter.
        batch: points in a step of the first half; four times as many in the second half.
        strength: in units of the noise.
        rate: the peak of the learning rate.
    """

    loss: str
    steps: int
    tau: float = 0.0
    blocks: int = 5
    channels: int = 16
    noise: float = 0.1
    blur: float = 0.0
    wiener: bool = False
    batch: int = 16
    strength: float = 1.0
    rate: float = 2e-2


BLURRED: dict[str, Any] = {**CASES["blur"], "wiener": True}

RUNS = {
    "approximation": Run("approximation", 150),
    "reconstruction": Run("reconstruction", 30, rate=6e-2),
    "log_det": Run("log_det", 40),
    "divergence": Run("divergence", 250),
    "divergence-tuned": Run("divergence", 250, strength=TUNED),
    "divergence-smooth": Run("divergence", 150, tau=TAU),
    "smooth-tuned": Run("divergence", 150, tau=TAU, strength=TUNED),
    "other": Run("other", 400),
    "plain": Run("plain", 600),
    "score": Run("plain", 1000, noise=TAU),
    "plain-blur": Run("plain", 600, **BLURRED),
    "other-blur": Run("other", 400, **BLURRED),
    "divergence-tuned-blur": Run("divergence", 250, tau=TAU, strength=TUNED_BLUR, **BLURRED),
}


def code_hash() -> str:
    """Return the hash of what the arrays follow from, beside `invlib`: this script, pictures, networks, methods."""
    parts = (
        *(Case, Photographs, PlainNet, photos.crops, photos.squared_error, photos.spectrum, photos.applied),
        *(photos.test_pictures, photos.inner, photos.quality, photos.wiener_filter, photos.total_variation),
        *(photos.total_variation_deblurring, photos.non_local_means, photos.plug_and_play, photos.denoiser_inside),
    )
    text = Path(__file__).read_text(encoding="utf-8") + "".join(map(inspect.getsource, parts))
    return hashlib.sha256(text.encode()).hexdigest()


def case_of(run: Run) -> Case:
    """Return the problem of a run."""
    return Case(photos.spectrum(), run.noise, run.blur, run.wiener)


def network(run: Run, seed: int) -> nn.Module:
    """Return the untrained network of a run."""
    generator = seeded(100 + seed)
    if run.loss == "plain":
        return PlainNet(generator=generator)
    shape = (photos.CROP, photos.CROP)
    return ConvIResNet(shape, blocks=run.blocks, channels=run.channels, generator=generator)


def trained(run: Run, seed: int) -> tuple[nn.Module, float]:
    """Train, and return the network and the seconds."""
    case, net = case_of(run), network(run, seed)
    pool = photos.crops(photos.POOL, photos.CROP, seeded(seed))
    prior = Photographs(pool, case, run.tau) if run.tau or run.wiener else Samples(pool.flatten(1))
    loss = photos.squared_error(case) if run.loss in ("plain", "other") else run.loss
    options: dict = {"steps": run.steps, "batch_size": run.batch, "learning_rate": run.rate}
    options["generator"] = seeded(200 + seed)
    if run.loss == "plain":
        options |= {"optimizer": torch.optim.Adam, "learning_rate": 5e-3}
    if run.loss in ("divergence", "log_det"):
        options["strength"] = run.strength * run.noise
    start = time.process_time()
    train(net, case.problem(), prior, loss, **options)
    return net, time.process_time() - start


def restored(run: Run, net: nn.Module, y: Tensor) -> Tensor:
    """Return the reconstructions of a trained network from measurements (P, rows, columns)."""
    case = case_of(run)
    if run.loss in ("plain", "other"):
        return photos.applied(net, case.pixels(case.datum(y)))
    return case.pixels(photos.applied(net, case.datum(y), 1e-3))


def stored(name: str, seed: int, work: Path) -> tuple[Run, nn.Module, float]:
    """Return a training, its network, and its seconds."""
    file = torch.load(work / f"{name}-{seed}.pt")
    run = RUNS[name]
    net = network(run, seed)
    net.load_state_dict(file["state"])
    return run, net, file["seconds"]


def seeds_of(name: str, work: Path) -> list[int]:
    """Return the seeds that were trained."""
    return [seed for seed in SEEDS if (work / f"{name}-{seed}.pt").exists()]


def training(name: str, seed: int, work: Path) -> None:
    """Train one network and keep it."""
    net, seconds = trained(RUNS[name], seed)
    torch.save({"state": net.state_dict(), "seconds": seconds}, work / f"{name}-{seed}.pt")
    x = photos.test_pictures()
    y = case_of(RUNS[name]).measure(x, seeded(NOISE))
    psnr, ssim = photos.quality(restored(RUNS[name], net, y), x)
    print(f"{name} {seed}: {seconds:.0f} s, {psnr.mean():.2f} dB, {ssim.mean():.3f}", psnr.round(2), flush=True)


Found = dict[int, tuple[Tensor, float, float]]
"""By seed: the pictures, and the seconds of training and of reconstruction."""


def timed(method: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Return the pictures of a method, and its seconds."""
    start = time.process_time()
    return method(), time.process_time() - start


def tuned(
    method: Callable[[int, float], Tensor], values: Sequence[float], x: Tensor, training: Sequence[float]
) -> Found:
    """Return the pictures by seed, with the weight of the best mean PSNR of the first seed, on these very pictures."""
    tried = [timed(partial(method, 0, value)) for value in values]
    psnr = [photos.quality(each[0], x)[0].mean() for each in tried]
    print([round(float(value), 2) for value in psnr], flush=True)
    at = int(np.argmax(psnr))
    rest = [timed(partial(method, seed, values[at])) for seed in range(1, len(training))]
    found = enumerate(zip([tried[at], *rest], training, strict=True))
    return {seed: (picture, training_time, seconds) for seed, ((picture, seconds), training_time) in found}


def of_networks(name: str, y: Tensor, work: Path) -> Found:
    """Return the pictures of the networks of a run, by seed."""
    found = {}
    for seed in seeds_of(name, work):
        run, net, training_time = stored(name, seed, work)
        picture, seconds = timed(partial(restored, run, net, y))
        found[seed] = (picture, training_time, seconds)
    return found


def denoisers(name: str, work: Path) -> tuple[list[photos.Method], list[float]]:
    """Return the denoisers of the noise TAU in networks, by seed, and the seconds of their trainings."""
    runs = [stored(name, seed, work) for seed in seeds_of(name, work)]
    if name == "score":
        found: list[photos.Method] = [partial(photos.applied, net) for _, net, _ in runs]
    else:
        found = [photos.denoiser_inside(net, run.strength * run.noise) for run, net, _ in runs]
    return found, [seconds for *_, seconds in runs]


def plugged(name: str, case: Case, y: Tensor, x: Tensor, work: Path, strengths: Sequence[float], steps: int) -> Found:
    """Return the pictures of plug-and-play, by seed; strengths in units of the noise."""
    inside, training_times = denoisers(name, work)

    def method(seed: int, strength: float) -> Tensor:
        return photos.plug_and_play(case, y, inside[seed], strength * case.noise, steps=steps)

    return tuned(method, strengths, x, training_times)


def methods(prefix: str, x: Tensor, y: Tensor, work: Path) -> dict[str, Callable[[], Found]]:
    """Return what is tested. Weights are the best for these very pictures."""
    case = Case(photos.spectrum(), **CASES[prefix])

    def bare(method: Callable[[float], Tensor], values: Sequence[float] = (0.0,)) -> Callable[[], Found]:
        return lambda: tuned(lambda _, value: method(value), values, x, (0.0,))

    found = {"measurement": bare(lambda _: y), "wiener": bare(lambda _: photos.wiener_filter(case, y))}
    names = [name for name, run in RUNS.items() if (run.noise, run.blur) == (case.noise, case.blur)]
    networks = {name.removesuffix("-blur"): partial(of_networks, name, y, work) for name in names}
    if prefix == "blur":
        found["tv"] = bare(lambda weight: photos.total_variation_deblurring(case, y, weight), TV_DEBLURRING)
        found["affine"] = bare(lambda _: photos.wiener_filter(case, y, TUNED_BLUR, TAU))
        found["pnp-full"] = partial(plugged, "score", case, y, x, work, (1.0,), 150)
        found["pnp"] = partial(plugged, "score", case, y, x, work, PLUGGED, 40)
        found["carried"] = partial(plugged, "divergence-tuned", case, y, x, work, CARRIED, 40)
    else:
        found["tv"] = bare(lambda weight: photos.total_variation(y, weight), TV_DENOISING)
        found["nlm"] = bare(lambda h: photos.non_local_means(y, case.noise, h), NLM)
        found["pnp-full"] = partial(plugged, "score", case, y, x, work, (1.0,), 150)
        found["pnp"] = partial(plugged, "score", case, y, x, work, STRENGTHS, 40)
    return found | networks


def table(results: dict[str, Found], x: Tensor, prefix: str) -> dict[str, np.ndarray]:
    """Return names, PSNR and SSIM (methods, seeds, pictures), and seconds; NaN where there are fewer seeds."""
    shape, before = (len(results), len(SEEDS)), photos.stored() if photos.STORE.exists() else {}
    arrays = {key: np.full((*shape, len(x)), np.nan) for key in ("psnr", "ssim")}
    arrays |= {key: np.full(shape, np.nan) for key in ("training", "seconds")}
    for row, (name, found) in enumerate(results.items()):
        for old in np.flatnonzero(before.get(f"{prefix}_names", np.array([])) == name):
            for key, values in arrays.items():
                values[row] = before[f"{prefix}_{key}"][old]
        for column, (picture, training_time, seconds) in found.items():
            arrays["psnr"][row, column], arrays["ssim"][row, column] = photos.quality(picture, x)
            arrays["training"][row, column], arrays["seconds"][row, column] = training_time, seconds
    named = {key: value.astype(np.float32) for key, value in arrays.items()}
    return {f"{prefix}_{key}": value for key, value in {"names": np.array(list(results)), **named}.items()}


def distances(results: dict[str, Found], *names: str) -> list[float]:
    """Return the root mean square distance of the pictures of two methods, by seed of the first; NaN where none is."""
    first, second = (results[name] for name in names)
    found = [math.nan] * len(SEEDS)
    for seed, one in first.items():
        other = second.get(seed, second[0])  # a method that knows no seeds has the first one
        found[seed] = float((photos.inner(one[0]) - photos.inner(other[0])).square().mean().sqrt())
    return found


def gallery(results: dict[str, Found], x: Tensor, names: list[str], prefix: str) -> dict[str, np.ndarray]:
    """Return parts of one picture as bytes, the truth first, then those of the methods for the first seed."""
    pictures = [x, *(results[name][0][0] for name in names)]
    parts = [photos.inner(each)[SHOWN][WINDOW] for each in pictures]
    values = (255 * torch.stack(parts)).round().to(torch.uint8).numpy()
    return {f"{prefix}_gallery": values, f"{prefix}_shown": np.array(["truth", *names])}


def weights(work: Path) -> dict[str, np.ndarray]:
    """Return the parameters of the networks that the chapter runs, in a row."""
    found = {}
    for name in photos.KEPT:
        _, net, _ = stored(name, 0, work)
        vector = nn.utils.parameters_to_vector(net.parameters()).detach()
        found[f"weights_{name}"] = vector.numpy().astype(np.float32)
    return found


def evaluate(work: Path, minutes: float) -> None:
    """Test all methods on the test pictures, and write the arrays; or stop after some minutes."""
    x, start = photos.test_pictures(), time.monotonic()
    command = "python -m experiments.photographs evaluate"
    arrays: dict[str, np.ndarray] = {"command": np.array(command), "hash": np.array(code_hash())}
    for prefix in CASES:
        y = Case(photos.spectrum(), **CASES[prefix]).measure(x, seeded(NOISE))
        results: dict[str, Found] = {}
        for name, method in methods(prefix, x, y, work).items():
            file = work / f"tested-{prefix}-{name}.pt"
            if not file.exists():
                if time.monotonic() - start > 60 * minutes:
                    return
                torch.save(method(), file)
            results[name] = torch.load(file)
            print(prefix, name, [photos.quality(each[0], x)[0].mean().round(2) for each in results[name].values()])
        arrays[f"{prefix}_distance"] = np.array([distances(results, *pair) for pair in APART[prefix]], np.float32)
        arrays |= table(results, x, prefix) | gallery(results, x, GALLERY[prefix], prefix)
    arrays |= weights(work)
    np.savez_compressed(photos.STORE, allow_pickle=False, **arrays)
    print(photos.STORE.name, photos.STORE.stat().st_size)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["train", "evaluate"])
    parser.add_argument("name", nargs="?", choices=list(RUNS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--work", type=Path, default=Path("photographs-work"))
    asked = parser.parse_args()
    asked.work.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    if asked.task == "train":
        training(asked.name, asked.seed, asked.work)
    else:
        evaluate(asked.work, asked.minutes)


if __name__ == "__main__":
    main()
