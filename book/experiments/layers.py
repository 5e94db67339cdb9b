"""Train the networks for the layers of the chapter on nonlinear measurements, and store their weights.

    python book/experiments/layers.py                  all steps; again, to go on after a stop
    python book/experiments/layers.py --minutes 4      stop after so long
    python book/experiments/layers.py --collect        write book/checks/layers.npz

Three networks are trained side by side on one thread. A folder keeps the checkpoint.
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

from checks import nonlinear_operators as checks  # noqa: E402

STEPS = 1000
SEED = 1


def code_hash() -> str:
    """Return the hash of all that the weights follow from, beside `invlib`: this script, layers, loss, training."""
    parts = (checks.Layers, checks.corrector, checks.loss_of_layers, checks.fit_layers)
    text = Path(__file__).read_text(encoding="utf-8") + "".join(inspect.getsource(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()


def train(folder: Path, minutes: float) -> None:
    """Train until the end, or for some minutes; then store what is known."""
    net, start = checks.corrector(SEED), time.monotonic()
    history = checks.fit_layers(
        net,
        STEPS,
        SEED,
        callback=lambda now: time.monotonic() - start > 60 * minutes,
        checkpoint=str(folder / "layers.checkpoint"),
    )
    state = {key: value.detach() for key, value in net.named_parameters()}
    torch.save({"state": state, "seconds": history.seconds, "steps": len(history.loss)}, folder / "layers.pt")
    print(len(history.loss), "steps", round(history.seconds), "s", history.loss[-100:].mean(0).tolist())


def collect(folder: Path) -> None:
    """Write the weights, with seconds, seed and hash, into one small file."""
    found = torch.load(folder / "layers.pt")
    if found["steps"] < STEPS:
        raise SystemExit(f"not finished: {found['steps']} steps")
    weights = {key: value.numpy() for key, value in found["state"].items()}
    about = {"hash": code_hash(), "seed": SEED, "steps": STEPS, "seconds": found["seconds"]}
    command = "python book/experiments/layers.py"
    np.savez_compressed(checks.STORED_LAYERS, allow_pickle=False, command=command, **about, **weights)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--folder", type=Path, default=Path("layers-run"))
    parser.add_argument("--collect", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    if options.collect:
        collect(options.folder)
    else:
        train(options.folder, options.minutes)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
