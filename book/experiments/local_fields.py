"""Train the networks of the chapter on Markov random fields, and store their weights.

    python book/experiments/local_fields.py divergence        one of the four losses; again, to go on after a stop
    python book/experiments/local_fields.py --minutes 4 ...   stop after so long
    python book/experiments/local_fields.py --collect         write book/checks/local_fields.npz

Three networks are trained side by side for each loss, on one thread. A folder keeps the samples and checkpoints.
"""

import argparse
import hashlib
import inspect
import sys
import time
from pathlib import Path

import numpy as np
import torch

BOOK = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(BOOK.parent), str(BOOK)]

from checks import local_fields as checks  # noqa: E402
from checks.tools import seeded  # noqa: E402

SETTINGS = {
    "divergence": {"steps": 1000, "batch_size": 32},
    "reconstruction": {"steps": 200, "batch_size": 32},
    "log_det": {"steps": 100, "batch_size": 16},
    "approximation": {"steps": 100, "batch_size": 16},
}
SEED = 1
POINTS = 8192


def code_hash() -> str:
    """Return the hash of all that the weights follow from, beside `invlib`: this script, field, samples, training."""
    parts = (checks.Field, checks.exact_samples, checks.network, checks.fit)
    text = Path(__file__).read_text(encoding="utf-8") + "".join(map(inspect.getsource, parts))
    return hashlib.sha256(text.encode()).hexdigest()


def samples(folder: Path) -> torch.Tensor:
    """Return the points to train on, from the folder if they are there."""
    file = folder / "points.pt"
    if not file.exists():
        torch.save(checks.exact_samples(checks.Field(64), POINTS, seeded(SEED)), file)
    points: torch.Tensor = torch.load(file)
    return points


def train(loss: str, folder: Path, minutes: float) -> None:
    """Train until the end, or for some minutes; then store what is known."""
    net, start, points = checks.network(SEED), time.monotonic(), samples(folder)
    history = checks.fit(
        net,
        loss,
        points,
        **SETTINGS[loss],
        seed=SEED,
        callback=lambda now: time.monotonic() - start > 60 * minutes,
        checkpoint=str(folder / f"{loss}.checkpoint"),
    )
    state = {key: value.detach() for key, value in net.named_parameters()}
    torch.save({"state": state, "seconds": history.seconds, "steps": len(history.loss)}, folder / f"{loss}.pt")
    print(loss, len(history.loss), "steps", round(history.seconds), "s", history.loss[-100:].mean(0).tolist())


def collect(folder: Path) -> None:
    """Write the weights of all losses, with seconds, seed and hash, into one small file."""
    arrays: dict[str, object] = {
        "hash": code_hash(),
        "seed": SEED,
        "points": POINTS,
        "command": "python book/experiments/local_fields.py",
    }
    for loss, settings in SETTINGS.items():
        found = torch.load(folder / f"{loss}.pt")
        if found["steps"] < settings["steps"]:
            raise SystemExit(f"{loss} is not finished: {found['steps']} steps")
        arrays |= {f"{loss}/{key}": value.numpy() for key, value in found["state"].items()}
        arrays[f"{loss}/seconds"] = found["seconds"]
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
