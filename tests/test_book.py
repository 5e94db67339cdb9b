"""Tests of the book's sources: pairs in sync, images described, references and words in order."""

import re
import subprocess
from functools import cache
from pathlib import Path

import execute
import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
CHAPTERS = execute.find_chapters()
PLAIN_PAGES = [path for path in sorted(BOOK.glob("*.md")) if path not in CHAPTERS]

# The only hosts that a link may lead to (the name of the SVG format only looks like one), and those that run a notebook
# of a repository, once it has an address. Whatever a page loads comes from the page's own folder.
ALLOWED_HOSTS = {"www.w3.org", "arxiv.org", "doi.org", "creativecommons.org", "www.jmlr.org"}
ALLOWED_HOSTS |= {"github.com", "colab.research.google.com", "mybinder.org"}

READ_BY_PEOPLE = {"", ".md", ".ipynb", ".bib", ".cff", ".yml", ".toml", ".txt", ".css", ".js"}
PRIVATE_WORDS = re.compile(r"\b(this|my|another|previous|next) session\b|\bissue #?\d", re.I)
MACHINE_PATH = re.compile(r"(?<![\w.:/*~\]])/(?:home|root|work|tmp|Users|mnt|opt|srv)/\w")
OUTSIDE_PATH = re.compile(r"(?<![\w./])(?:\.\./)+[\w.-]+")
BUILT = {f"../{name}" for name in ("_images", "_static", "book", "figures", "slides", "index.html", "genindex.html")}
"""Places among the built pages, seen from one of them."""


def chapter_id(path: Path) -> str:
    return path.stem


def tracked_files() -> list[Path]:
    """Every file that git has or would take; without git, every file outside hidden folders."""
    command = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    try:
        names = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
        paths = [ROOT / name for name in names if name]
    except (OSError, subprocess.CalledProcessError):
        skip = {"_build", "build", "dist", "__pycache__"}
        paths = [
            path
            for path in ROOT.rglob("*")
            if not any(part in skip or part.startswith(".") for part in path.relative_to(ROOT).parts)
        ]
    return [path for path in paths if path.is_file()]


@cache
def written_text(path: Path) -> str:
    """The text of a file; of a notebook, its cells and text outputs, without the images."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    notebook = nbformat.read(path, as_version=4)
    parts = []
    for cell in notebook.cells:
        parts.append(cell.source)
        for output in cell.get("outputs", []):
            parts.append(str(output.get("text", "")))
            parts += [str(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(parts)


TEXT_FILES = [
    path for path in tracked_files() if path.suffix in READ_BY_PEOPLE | {".py", ".sh"} and path.name != ".gitattributes"
]


def test_there_are_chapters() -> None:
    assert CHAPTERS


@pytest.mark.parametrize("chapter", CHAPTERS, ids=chapter_id)
def test_pair_is_in_order(chapter: Path) -> None:
    """In sync, current, counted from 1 to n, nothing on stderr, no error, no large image."""
    assert execute.check(chapter) == []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=chapter_id)
def test_metadata_is_what_jupyter_would_write(chapter: Path) -> None:
    stored = execute.read_stored(chapter)
    assert stored is not None
    assert stored.metadata["kernelspec"] == execute.KERNEL
    assert stored.metadata["jupytext"]["formats"] == execute.FORMATS
    assert list(stored.metadata) == sorted(stored.metadata)
    assert len({cell.id for cell in stored.cells}) == len(stored.cells)


def test_every_notebook_has_its_text() -> None:
    assert {path.stem for path in BOOK.glob("*.ipynb")} == {path.stem for path in CHAPTERS}


def test_contents_list_exactly_the_pages() -> None:
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [contents["root"]]
    for part in contents["parts"]:
        listed += [entry["file"] for entry in part["chapters"]]
    assert len(listed) == len(set(listed))
    notebooks = {f"book/{path.stem}.ipynb" for path in CHAPTERS}
    assert set(listed) == notebooks | {f"book/{path.stem}" for path in PLAIN_PAGES}
    captions = [part["caption"] for part in contents["parts"]]
    order = ["Start here", "Foundations", "Training strategies", "Experiments", "Beyond the paper", "Reference"]
    assert captions == [caption for caption in order if caption in captions]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=chapter_id)
def test_every_image_is_described(chapter: Path) -> None:
    stored = execute.read_stored(chapter)
    assert stored is not None
    for cell in execute.code_cells(stored):
        tags = set(cell.metadata.get("tags", []))
        images = [
            output for output in cell.outputs if any(kind.startswith("image/") for kind in output.get("data", {}))
        ]
        if images and not tags & {"remove-output", "remove-cell"}:
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt.split()) >= 3, f"no alt text:\n{cell.source}"


@pytest.mark.parametrize("page", CHAPTERS + PLAIN_PAGES, ids=chapter_id)
def test_every_markdown_image_is_described(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"!\[\s*\]\(", text)
    for block in re.findall(r"^[:`]{3,}\{(?:figure|image)\}.*?^[:`]{3,}", text, re.M | re.S):
        assert re.search(r"^:alt: \S+", block, re.M), f"no alt text:\n{block}"


@pytest.mark.parametrize("chapter", CHAPTERS, ids=chapter_id)
def test_every_exercise_has_a_solution(chapter: Path) -> None:
    text = chapter.read_text(encoding="utf-8")
    blocks = re.findall(r"^:{3,}\{exercise(?:-start)?\}(.*?)^:{3,}", text, re.M | re.S)
    labels = [re.search(r"^:label: (\S+)", block, re.M) for block in blocks]
    assert all(labels), "an exercise has no label"
    solved = re.findall(r"^:{3,}\{solution(?:-start)?\} (\S+)", text, re.M)
    assert sorted(label[1] for label in labels if label) == sorted(solved)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=chapter_id)
def test_statements_stay_readable_in_jupyter(chapter: Path) -> None:
    """Backtick fences would show as code in Jupyter, with the formulas unreadable."""
    text = chapter.read_text(encoding="utf-8")
    fences = re.findall(r"^`{3,}\{(?:prf:\w+|exercise|solution|note|admonition).*", text, re.M)
    assert not fences, "use ::: fences"


@pytest.mark.parametrize("page", CHAPTERS + PLAIN_PAGES, ids=chapter_id)
def test_plain_tex_only(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"\\(?:(?:re)?newcommand|def|DeclareMathOperator|require)\b", text)
    assert not found, "JupyterLab shows custom macros as red errors"
    assert "\\left\\lVert" not in text


def test_no_custom_macros_in_the_settings() -> None:
    assert "macros" not in (ROOT / "_config.yml").read_text(encoding="utf-8")


def test_every_cited_key_exists_and_is_used() -> None:
    bibliography = (BOOK / "references.bib").read_text(encoding="utf-8")
    known = re.findall(r"^@\w+\{\s*([^,\s]+)\s*,", bibliography, re.M)
    assert len(known) == len(set(known))
    cited = set()
    for page in CHAPTERS + PLAIN_PAGES:
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", page.read_text(encoding="utf-8")):
            cited |= {key.strip() for key in keys.split(",")}
    assert cited == set(known)


def test_links_lead_to_known_hosts() -> None:
    """In particular to no package registry and no content delivery network."""
    for path in TEXT_FILES:
        for host in re.findall(r"(?<![\w:/])(?:https?:)?//((?:[\w-]+\.)+[a-z]{2,})", written_text(path)):
            assert host in ALLOWED_HOSTS, f"{path.relative_to(ROOT)}: {host}"


def test_no_paths_of_one_machine() -> None:
    for path in TEXT_FILES:
        found = MACHINE_PATH.search(written_text(path))
        assert found is None, f"{path.relative_to(ROOT)}: {found}"
        for outside in set(OUTSIDE_PATH.findall(written_text(path))) - BUILT:
            target = path.parent / outside
            assert target.exists(), f"{path.relative_to(ROOT)}: {outside}"
            assert target.resolve().is_relative_to(ROOT), f"{path.relative_to(ROOT)}: {outside}"


def test_no_words_about_how_the_book_was_made() -> None:
    for path in TEXT_FILES:
        if path.suffix in READ_BY_PEOPLE:
            found = PRIVATE_WORDS.search(written_text(path))
            assert found is None, f"{path.relative_to(ROOT)}: {found}"


def test_versions_agree() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"]
    assert citation["authors"] == [{"name": "The contributors"}]


def test_requirements_are_pinned() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    packages = [line for line in lines if line.strip() and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in packages)


def test_the_example_on_the_first_page_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (BOOK / "index.md").read_text(encoding="utf-8"), flags=re.S)
    assert "progress=True" in code
    variables: dict[str, object] = {}
    exec(code.replace("progress=True", "steps=3"), variables)
    assert variables["net"].inverse(variables["z"]).shape == (5, 2)
