"""Measure invlib beside its peers: `python benchmarks/run.py [--quick] [--only TOPIC ...]`.

Every topic replaces its own entry in `results.json`. Peers that are not installed are left out, with a message.
"""

import argparse
import datetime
import json
import os
import platform
import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the library beside this folder, installed or not

import common
import convolution
import exactness
import inversion
import peers
import random_problems
import speed

TOPICS = {
    "training_step": speed.training_step,
    "ensembles": speed.ensembles,
    "sweep": speed.sweep,
    "inverse": inversion.inverse,
    "gradient": inversion.gradient,
    "spectral_norms": exactness.spectral_norms,
    "dimensions": speed.dimensions,
    "convolution": convolution.convolution,
    "accuracy_map": exactness.accuracy_map,
    "accuracy_mean": exactness.accuracy_mean,
    "random_problems": random_problems.random_problems,
    "random_problems_64": random_problems.random_problems_64,
}
KEEP_MEMORY = {name: str(2**30) for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")}
"""The C library keeps freed memory, as in the kernels of the chapters: for all competitors alike."""

RESULTS = Path(__file__).with_name("results.json")


def machine() -> dict[str, object]:
    """Return what a reader needs to know of the computer and the versions."""
    names = [line.split(":")[1].strip() for line in _cpu_info() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1),
        "peers": peers.versions(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def show(rows: list[dict[str, object]]) -> None:
    """Print rows as a table; its columns are the keys of all rows, in the order in which they appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[_text(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run the topics asked for and write their results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions: does it run?; results are not kept")
    parser.add_argument("--only", nargs="+", choices=TOPICS, default=list(TOPICS), metavar="TOPIC")
    parser.add_argument("--threads", nargs="+", type=int, default=common.THREAD_COUNTS, help="default: 1 and 2")
    arguments = parser.parse_args()
    common.THREAD_COUNTS[:] = arguments.threads
    torch.set_num_threads(1)  # where a topic does not say otherwise
    warnings.filterwarnings("ignore", module="normflows|FrEIA")
    for name, version in peers.versions().items():
        print(f"{name}: {version}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"topics": {}}
    checks = []
    for name in arguments.only:
        topic = TOPICS[name](arguments.quick)
        results["topics"][name] = topic | {"machine": machine()}
        checks += topic["checks"]
        print(f"\n{topic['title']}")
        show(topic["rows"])
        if not arguments.quick:
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print("\nTargets")
    show(checks)


if __name__ == "__main__":
    if os.environ.items() >= KEEP_MEMORY.items():
        main()
    else:  # it must be known before the process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
