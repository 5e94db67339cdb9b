"""The README does what it says: its examples run, and its table has every module. So has the page of the library."""

import re
from pathlib import Path

import torch

import invlib

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "book" / "library.md").read_text(encoding="utf-8")


def test_the_example_with_a_data_set_runs(capsys):
    """With fewer steps: whether it learns is the matter of tests/test_user_trials.py."""
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    short = code.replace("steps=300", "steps=3").replace(", progress=True", "")
    assert short.count("steps=3") == 1

    variables = {}
    state = torch.get_rng_state()
    try:
        exec(short, variables)
    finally:
        torch.set_rng_state(state)

    result = variables["result"]
    assert result.x.shape == result.std.shape == (100, 64)
    assert bool((result.std > 0).all())
    assert len(variables["history"].loss) == 3
    data, wiener = re.findall(r"tensor\((.*?)\)", capsys.readouterr().out)[:2]
    prose = README.replace("\n", " ")
    assert f"off by {float(data):.2f} and" in prose
    assert f"by {float(wiener):.2f}. The network" in prose
    residual = variables["net"](result.x) - variables["z"]
    assert residual.abs().max() < 1e-4  # float32 points of size one


def test_the_table_has_every_module():
    modules = {path.name for path in (ROOT / "invlib").glob("*.py")} - {"__init__.py"}
    rows = re.findall(r"^\| (`.*?) \|", README, flags=re.MULTILINE)
    named = set(re.findall(r"`(\w+\.py)`", "\n".join(rows)))
    assert named == modules


def test_the_page_of_the_library_has_every_public_name_once():
    entries = re.findall(r"^\.\. auto(?:class|exception|function):: invlib\.(\w+)$", PAGE, flags=re.MULTILINE)
    assert sorted(entries) == sorted(invlib.__all__)


def test_the_lines_that_run_one_chapter_install_what_it_imports():
    """The notebooks import `checks` and `figures`, which only the package in book/ has; `make book` leaves it out."""
    section = README.split("## Run one chapter")[1].split("\n## ")[0]
    (shell,) = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    (install,) = [line.split() for line in shell.splitlines() if " pip install " in line]
    assert {"./book", "jupyterlab"} <= set(install)
    assert (ROOT / "book" / "pyproject.toml").exists()
    (notebook,) = re.findall(r"_build/html/_sources/(book/[\w-]+)\.ipynb", shell)
    assert (ROOT / f"{notebook}.md").exists()
