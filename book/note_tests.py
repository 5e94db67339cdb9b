"""Note what the last `make test` counted, in ``state/tests.json``, for the page *State of the book*: `make state`."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from execute import BOOK, machine

BUILD = BOOK.parent / "_build"
NOTES = BOOK / "state" / "tests.json"


def file_of(class_name: str, root: Path = BOOK.parent) -> str:
    """Return the file of a test: the class name of pytest's report has it with dots, and maybe a class at its end."""
    parts = class_name.split(".")
    for count in range(len(parts), 0, -1):
        for path in ("/".join(parts[:count]) + ".py", "/".join(parts[: count - 1]) + f"/{parts[count - 1]}"):
            if (root / path).is_file():
                return path
    if parts[-1] == "ipynb":
        return "/".join(parts[:-1]) + ".ipynb"
    return class_name


def counted(report: Path) -> dict[str, dict[str, float]]:
    """Return for each file its tests, those skipped and failed, and their seconds."""
    counts: dict[str, dict[str, float]] = defaultdict(lambda: {"tests": 0, "skipped": 0, "failed": 0, "seconds": 0})
    for case in ElementTree.parse(report).iter("testcase"):
        entry = counts[file_of(case.get("classname", ""))]
        entry["tests"] += 1
        entry["skipped"] += case.find("skipped") is not None
        entry["failed"] += case.find("failure") is not None or case.find("error") is not None
        entry["seconds"] += float(case.get("time", 0))
    return {file: {**counts[file], "seconds": round(counts[file]["seconds"], 1)} for file in sorted(counts)}


def covered(report: Path) -> tuple[float, dict[str, float]]:
    """Return the percentage of the library that the tests run, and that of each module."""
    found = json.loads(report.read_text(encoding="utf-8"))
    files = {name.replace("\\", "/"): entry["summary"]["percent_covered"] for name, entry in found["files"].items()}
    return round(found["totals"]["percent_covered"], 2), {name: round(files[name], 1) for name in sorted(files)}


def main() -> int:
    """Write the notes."""
    tests, coverage = BUILD / "tests.xml", BUILD / "coverage.json"
    missing = [path.name for path in (tests, coverage) if not path.exists()]
    if missing:
        print(f"{' and '.join(missing)} missing in {BUILD}: run `make test` first", file=sys.stderr)
        return 1
    percent, modules = covered(coverage)
    notes = {**machine(), "percent": percent, "coverage": modules, "files": counted(tests)}
    text = json.dumps(notes, indent=1)
    NOTES.parent.mkdir(exist_ok=True)
    NOTES.write_text(text + "\n", encoding="utf-8", newline="\n")
    print(f"{NOTES}: {sum(entry['tests'] for entry in notes['files'].values())} tests, {percent} % covered")
    return 0


if __name__ == "__main__":
    sys.exit(main())
