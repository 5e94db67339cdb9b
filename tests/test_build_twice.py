"""Tests of the comparison of two builds: it reads numbers of each kind, and sees one that changed or is gone."""

from pathlib import Path

import browsing
import build_twice
import pytest

PAGE = """\
<article class="bd-article"><section id="one"><h1><span class="section-number">1.</span> One</h1>
<div class="proof theorem admonition" id="thm-one"><p><span class="caption-number">Theorem 1.1 </span></p></div>
<div class="math" id="equation-eq-one"><span class="eqno">(1.1)</span></div></section></article>
"""


def numbers(folder: Path, page: str) -> build_twice.Numbers:
    (folder / "book").mkdir(exist_ok=True)
    (folder / "book" / "one.html").write_text(page, encoding="utf-8")
    return build_twice.numbers_of(folder)


def test_a_number_that_changed_or_is_gone_is_seen(tmp_path: Path) -> None:
    first = numbers(tmp_path, PAGE)
    assert first["one", "statement", "thm-one"] == "Theorem 1.1"
    assert not build_twice.differences(first, numbers(tmp_path, PAGE))
    changed = build_twice.differences(first, numbers(tmp_path, PAGE.replace("Theorem 1.1", "Theorem 1.2")))
    assert changed == ["one statement thm-one: Theorem 1.1 and Theorem 1.2"]
    gone = build_twice.differences(first, numbers(tmp_path, PAGE.replace(' id="equation-eq-one"', "")))
    assert gone == ["one equation equation-eq-one: (1.1) and nothing"]


def test_the_pages_have_numbers_of_each_kind() -> None:
    browsing.build_if_stale()
    missing = set(build_twice.NUMBERS)
    for path in sorted((browsing.HTML / "book").glob("*.html")):
        missing -= {kind for _, kind, _ in build_twice.numbers_on(path)}
        if not missing:
            break
    assert not missing


def test_the_second_sphinx_is_newer() -> None:
    def version(file: str) -> tuple[int, ...]:
        lines = (browsing.ROOT / file).read_text(encoding="utf-8").splitlines()
        return tuple(map(int, next(line for line in lines if line.startswith("sphinx==")).split("==")[1].split(".")))

    assert version("tests/build_twice.txt") > version("requirements.txt")


@pytest.mark.parametrize("line", build_twice.REQUIREMENTS.read_text(encoding="utf-8").splitlines()[1:])
def test_every_package_is_pinned(line: str) -> None:
    assert line.count("==") == 1
