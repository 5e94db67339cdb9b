"""Train the networks of the chapter on Markov random fields, and store their weights.

    python book/experiments/local_fields.py divergence        one of the four losses; again, to go on after a stop
    python book/experiments/local_fields.py plain             the divergence, without symmetries, from few samples
    python book/experiments/local_fields.py regression        on the exact map; narrow: kernels of size three; symmetric
    python book/experiments/local_fields.py pictures          the divergence loss on pictures of 24 x 24
    python book/experiments/local_fields.py --minutes 4 ...   stop after so long
    python book/experiments/local_fields.py --collect         write book/checks/local_fields.npz

Three networks are trained side by side for each loss, on one thread, and one on pictures. A folder keeps the samples
and checkpoints.
"""

import argparse
import hashlib
import inspect
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

BOOK = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(BOOK.parent), str(BOOK)]

from checks import local_fields as checks  # noqa: E402
from checks.tools import seeded  # noqa: E402

from invlib import TrainingStep  # noqa: E402

SETTINGS = {
    "divergence": {"steps": 2000, "batch_size": 160},
    "plain": {"steps": 3600, "batch_size": 32},
    "reconstruction": {"steps": 500, "batch_size": 16},
    "log_det": {"steps": 100, "batch_size": 16},
    "approximation": {"steps": 100, "batch_size": 16},
    "regression": {"steps": 1000, "batch_size": 32},
    "narrow": {"steps": 1000, "batch_size": 32},
    "symmetric": {"steps": 1000, "batch_size": 32},
    "pictures": {"steps": 3000, "batch_size": 2},
}
OTHERS: dict[str, Any] = {
    "divergence": checks.coloured,
    "pictures": partial(checks.coloured, stiffness=1.0),
    "plain": "divergence",
    "regression": checks.regression,
    "narrow": checks.regression,
    "symmetric": checks.regression,
}
SEED = 9
POINTS = 32_768
MOVES = {"divergence": 32, "pictures": 6}


def hash_of(loss: str) -> str:
    """Return a name and the hash of what the weights of a training follow from, beside `invlib`."""
    draws = (checks.exact_samples, checks.hamiltonian, checks.roughness, checks.multiplied)
    nets = (checks.untrained, checks.network, checks.tie)
    parts = (checks.Field, *draws, *nets, checks.regression, checks.coloured, checks.fit)
    mine = (samples, fresh, pictures, large_picture, train)
    text = "".join(map(inspect.getsource, (*parts, *mine)))
    other = OTHERS.get(loss, loss)
    name = other if isinstance(other, str) else getattr(other, "keywords", None) or other.__name__
    settings = (SETTINGS[loss], name, SEED, POINTS, MOVES.get(loss), checks.TIED)
    return f"{loss} {hashlib.sha256(f'{text}{settings}'.encode()).hexdigest()[:16]}"


def code_hash() -> str:
    """Return the hash of all trainings."""
    return hashlib.sha256("".join(map(hash_of, SETTINGS)).encode()).hexdigest()


def samples(folder: Path) -> torch.Tensor:
    """Return the points to train on, from the folder if they are there."""
    file = folder / "points.pt"
    if not file.exists():
        torch.save(checks.exact_samples(checks.Field(64), POINTS, seeded(SEED), group=512).float(), file)
    points: torch.Tensor = torch.load(file)
    return points


def fresh(loss: str, folder: Path) -> torch.Tensor:
    """Return `MOVES` times as many points: the same, moved on by Hamiltonian Monte Carlo, which keeps their law."""
    file = folder / f"{loss}-points.pt"
    if not file.exists():
        field = checks.PICTURES if loss == "pictures" else checks.Field(64)
        x = pictures(folder)["points"] if loss == "pictures" else samples(folder)
        random, found = seeded(SEED), []
        for _ in range(MOVES[loss]):
            x = checks.hamiltonian(field, x.double(), random, rounds=2).points[-1]
            found.append(x.float())
        torch.save(torch.cat(found), file)
    points: torch.Tensor = torch.load(file)
    return points


def pictures(folder: Path) -> dict[str, torch.Tensor]:
    """Return pictures to train on and what tells whether to trust them, from the folder if they are there.

    The chains start from a constant with small steps; the first third of the rounds is thrown away. The yardstick is
    the distance of MAP and posterior mean of eight pictures, the mean from 16 chains each; what two halves of the
    chains differ by tells its error.
    """
    file, field, random = folder / "draws.pt", checks.PICTURES, seeded(SEED)
    if not file.exists():
        start = torch.zeros(256, field.dim, dtype=torch.float64)
        start = checks.hamiltonian(field, start, random, rounds=20, step=0.06).points[-1]
        draws = checks.hamiltonian(field, start, random, rounds=120)
        kept = checks.Draws(draws.points[40:], draws.accepted)
        _, z = checks.noisy(kept.points[-1, :8], random)
        mode = checks.exact_map(field, z)
        around = mode.repeat(16, 1) + 0.1 * torch.randn(128, field.dim, dtype=z.dtype, generator=random)
        posterior = checks.hamiltonian(field, around, random, rounds=150, z=z.repeat(16, 1), step=0.2)
        means = posterior.points[30:].unflatten(1, (2, 8, 8)).mean((0, 2))
        found = {
            "points": kept.points[::6].flatten(0, 1).float(),
            "accepted": torch.tensor([draws.accepted, posterior.accepted]),
            "spread": torch.tensor([kept.spread(of) for of in (field.log_prob, lambda x: x.mean(-1))]),
            "apart": (mode - means.mean(0)).square().mean().sqrt(),
            "apart_error": 0.5 * (means[0] - means[1]).square().mean().sqrt(),
        }
        torch.save({**found, **large_picture(kept.points[-1], random)}, file)
    stored: dict[str, torch.Tensor] = torch.load(file)
    return stored


def large_picture(tiles: torch.Tensor, random: torch.Generator) -> dict[str, torch.Tensor]:
    """Return one picture of 256 x 256 of the same field, in 256 grey levels: a chain that starts from a mosaic."""
    mosaic = tiles[:121].unflatten(-1, (24, 24)).unflatten(0, (11, 11)).permute(0, 2, 1, 3).reshape(264, 264)
    field = checks.Field(256, 256, scale=checks.PICTURES.scale)
    start = mosaic[:256, :256].reshape(1, -1)
    start = checks.hamiltonian(field, start, random, rounds=10, step=0.03, length=20).points[-1]
    draws = checks.hamiltonian(field, start, random, rounds=40, step=0.07, length=20)
    x = draws.points[-1].reshape(256, 256)
    low, high = float(x.min()), float(x.max())
    return {
        "large": ((x - low) / (high - low) * 255).round().to(torch.uint8),
        "range": torch.tensor([low, high]),
        "large_accepted": torch.tensor(draws.accepted),
        "energies": torch.stack(
            [-field.log_prob(x.flatten()) / x.numel(), -checks.PICTURES.log_prob(tiles).mean() / 576]
        ),
    }


def train(loss: str, folder: Path, minutes: float) -> None:
    """Train until the end, or for some minutes; then store what is known."""
    net, start, tied = checks.untrained(loss, SEED), time.monotonic(), loss in checks.TIED
    points, file = fresh(loss, folder) if loss in MOVES else samples(folder), folder / f"{loss}.pt"
    before, used = torch.load(file)["seconds"] if file.exists() else 0.0, time.process_time()

    def after_step(now: TrainingStep) -> bool:
        if tied:
            checks.tie(net)
        return time.monotonic() - start > 60 * minutes

    history = checks.fit(
        net,
        OTHERS.get(loss, loss),
        points,
        **SETTINGS[loss],
        seed=SEED,
        callback=after_step,
        checkpoint=str(folder / f"{loss}.checkpoint"),
    )
    if tied:
        checks.tie(net)
    state = {key: value.detach() for key, value in net.named_parameters()}
    seconds = before + time.process_time() - used
    torch.save({"state": state, "seconds": seconds, "steps": len(history.loss)}, file)
    print(loss, len(history.loss), "steps", round(seconds), "s", history.loss[-100:].mean(0).tolist())


def stored(loss: str) -> dict[str, np.ndarray]:
    """Return what is stored of a training, if it comes from this code."""
    with np.load(checks.STORED) as file:
        if hash_of(loss) not in file["hashes"]:
            raise SystemExit(f"{loss} is not trained, and what is stored comes from other code")
        return {key: file[key] for key in file.files if key.startswith(f"{loss}/")}


def collect(folder: Path) -> None:
    """Write the weights of all losses, with seconds, seed and hash, into one small file.

    What is not in the folder stays as it is stored.
    """
    arrays: dict[str, object] = {
        "hash": code_hash(),
        "hashes": [hash_of(loss) for loss in SETTINGS],
        "seed": SEED,
        "points": POINTS,
        "command": "python book/experiments/local_fields.py",
    }
    for loss, settings in SETTINGS.items():
        file = folder / f"{loss}.pt"
        if not file.exists():
            arrays |= stored(loss)
            continue
        found = torch.load(file)
        if found["steps"] < settings["steps"]:
            raise SystemExit(f"{loss} is not finished: {found['steps']} steps")
        arrays |= {f"{loss}/{key}": value.numpy() for key, value in found["state"].items()}
        arrays[f"{loss}/seconds"] = found["seconds"]
        if loss in MOVES:
            arrays[f"{loss}/fresh"] = len(fresh(loss, folder))
        if loss == "pictures":
            drawn = pictures(folder)
            arrays |= {f"pictures/{key}": drawn[key].numpy() for key in drawn if key != "points"}
    np.savez_compressed(checks.STORED, allow_pickle=False, **arrays)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("losses", nargs="*", choices=[*SETTINGS, []])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--folder", type=Path, default=Path("local-fields-run"))
    parser.add_argument("--collect", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    for loss in options.losses:
        train(loss, options.folder, options.minutes)
    if options.collect:
        collect(options.folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
