"""Run the contest of the chapter on what invertibility buys, and store what is measured.

    python book/experiments/invertibility.py plane            all that is missing; again, to go on after a stop
    python book/experiments/invertibility.py chain --minutes 5  begin nothing new after so long
    python book/experiments/invertibility.py --collect        write book/checks/invertibility.npz

One thread. In the plane nine networks are trained side by side (three geometries, three seeds), on the chain three. A
folder keeps the samples and the measurements. What is stored already, and comes from the same code, is not run again.
"""

import argparse
import hashlib
import inspect
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch

BOOK = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(BOOK.parent), str(BOOK)]

from checks import invertibility as checks  # noqa: E402
from checks import local_fields  # noqa: E402
from checks.tools import seeded  # noqa: E402

SEED = 1
RATES = {"plane": {"proximal": 0.15}, "chain": {}}
"""Where they are not 0.02."""
BATCH = {"plane": 128, "chain": 32}
TESTS = {"plane": 1000, "chain": 24}
STEPS = {
    "plane": {
        "divergence": 600,
        "implicit": 820,
        "reconstruction": 320,
        "direct": 950,
        "plain": 1340,
        "proximal": 440,
        "denoising": 1400,
        "flow": 680,
        "log_det": 580,
        "approximation": 760,
    },
    "chain": {
        "divergence": 245,
        "implicit": 275,
        "direct": 379,
        "plain": 446,
        "proximal": 500,
        "denoising": 458,
        "reconstruction": 67,
        "flow": 705,
        "log_det": 86,
    },
}
"""Steps that took about 8 seconds of one thread for nine networks in the plane, about 12 for three on the chain."""


def code_hash() -> str:
    """Return the hash of what the numbers follow from, beside `invlib`: networks, losses, field, measures, settings.

    Which contestants meet how many samples is no part of it, so more of them can be run without the others.
    """
    parts = (
        *(checks.PlainResNet, checks.PlainConvNet, checks.calm, checks.ConvexGradient, checks.Flow, checks.Batch),
        *(checks.Arena, checks.plane_geometries, checks.samples_of, checks.plane, checks.chain, checks.resnet),
        *(checks.convex, checks.flow, checks.half_square, checks.proximal_matching, checks.denoising, checks.network),
        *(checks.core_map, checks.wiener, checks.Keeper, checks.width_of, checks.train, checks.with_jacobian),
        *(checks.climb, checks.ascend, checks.newton, checks.Contestant, checks.plane_trial, checks.chain_trial),
        *(checks.other_operator, checks.louder, checks.measure, checks.exact_errors),
        *(local_fields.Field, local_fields.exact_samples, local_fields.exact_mean, local_fields.exact_map),
        *(*checks.LOSSES.values(), points_of_the_chain, trials, run),
    )
    settings = (SEED, RATES, BATCH, TESTS, STEPS, checks.MEMBERS, checks.HELD_OUT, checks.ENDLESS, checks.TAU)
    text = repr((*settings, checks.LOUDER, local_fields.NOISE)) + "".join(map(inspect.getsource, parts))
    return hashlib.sha256(text.encode()).hexdigest()


def points_of_the_chain(folder: Path) -> torch.Tensor:
    """Return the samples of the chain, from the folder if they are there."""
    file = folder / "points.pt"
    if not file.exists():
        torch.save(local_fields.exact_samples(local_fields.Field(64), checks.ENDLESS["chain"], seeded(SEED)), file)
    points: torch.Tensor = torch.load(file)
    return points


@cache
def trials(kind: str) -> tuple[checks.Trial, dict[str, checks.Trial]]:
    """Return the test data, and those of other problems."""
    count = TESTS[kind]
    if kind == "chain":
        return checks.chain_trial(count), {"loud": checks.chain_trial(count, checks.LOUDER)}
    geometries = checks.plane_geometries()
    loud = checks.plane_trial([checks.louder(g) for g in geometries], count)
    other = checks.plane_trial([checks.other_operator(g) for g in geometries], count)
    return checks.plane_trial(geometries, count), {"loud": loud, "other": other}


def run(kind: str, method: str, size: int, folder: Path) -> dict[str, np.ndarray]:
    """Train the networks of a contestant, and measure them."""
    arena = checks.plane(size, seed=SEED) if kind == "plane" else checks.chain(size, points_of_the_chain(folder))
    net = checks.network(method, arena, SEED)
    training, steps = checks.Training(0.0, torch.zeros(1)), 0
    if method != "affine":
        steps = STEPS[kind][method]
        training = checks.train(
            method,
            net,
            arena,
            steps=steps,
            rate=RATES[kind].get(method, 0.02),
            batch_size=BATCH[kind],
            seed=SEED,
            endless=size == 0,
        )
    found = checks.measure(checks.Contestant(method, net, arena), *trials(kind))
    arrays = {name: value.numpy() for name, value in found.items()}
    arrays["kept"] = training.kept.expand(len(arena.sets)).numpy()
    arrays["steps"] = np.full(len(arena.sets), steps)
    return arrays | {"training_seconds": np.array(training.seconds)}


def runs(kind: str) -> list[tuple[str, int]]:
    """Return contestants and numbers of samples; finite sets are not for approximation, which knows no prior."""
    everybody = (*STEPS[kind], "affine")
    return [(name, size) for size in checks.SIZES for name in everybody if size == 0 or name != "approximation"]


def stored(kind: str) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """Return what is stored of an arena, if it comes from this code."""
    with np.load(checks.STORED) as file:
        if str(file["hash"]) != code_hash():
            return {}
    return {
        (method, size): {name: value.flatten().numpy() for name, value in found.items()}
        for method, each in checks.results(kind).items()
        for size, found in each.items()
    }


def collect(folder: Path) -> None:
    """Write all measurements, with seed, seconds and hash, into one small file: a row for each measure.

    What is not in the folder stays as it is stored.
    """
    command = "python book/experiments/invertibility.py"
    arrays: dict[str, object] = {"hash": code_hash(), "seed": SEED, "command": command}
    for kind in STEPS:
        found, seconds, known = {}, {}, stored(kind)
        for method, size in runs(kind):
            file, name = folder / f"{kind}-{method}-{size}.npz", f"{method}/{size}"
            found[name] = dict(np.load(file)) if file.exists() else known[method, size]
            seconds[name] = found[name].pop("training_seconds" if file.exists() else "seconds").max()
            if method != "affine":
                found[name]["rate"] = np.full(len(trials(kind)[0].problems), RATES[kind].get(method, 0.02))
        trial, others = trials(kind)
        found["exact/0"] = {name: value.numpy() for name, value in checks.exact_errors(trial).items()}
        for other, each in others.items():
            found["exact/0"] |= {f"{other}_{k}": value.numpy() for k, value in checks.exact_errors(each).items()}

        measures = sorted(set().union(*found.values()))
        arrays[f"{kind}/measures"] = np.array(measures)
        arrays[f"{kind}/seconds"] = np.array(list(seconds.values()))
        nothing = np.full(len(trial.problems), np.nan)
        for name, values in found.items():
            rows = [values.get(measure, nothing) for measure in measures]
            arrays[f"{kind}/{name}"] = np.stack(rows).astype(np.float32)
    np.savez_compressed(checks.STORED, allow_pickle=False, **arrays)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*STEPS, []])
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--folder", type=Path, default=Path("invertibility-run"))
    parser.add_argument("--collect", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    start = time.monotonic()
    for kind in options.kinds:
        known = stored(kind)
        for method, size in [cell for cell in runs(kind) if cell not in known]:
            file = options.folder / f"{kind}-{method}-{size}.npz"
            if time.monotonic() - start > 60 * options.minutes:
                return
            claim = file.with_suffix(".claim")  # several may run side by side
            if claim.exists():
                continue
            claim.touch()
            arrays = run(kind, method, size, options.folder)
            np.savez_compressed(file, allow_pickle=False, **arrays)
            print(kind, method, size, arrays["training_seconds"].round(1), arrays["truth"].round(4), flush=True)
    if options.collect:
        collect(options.folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
