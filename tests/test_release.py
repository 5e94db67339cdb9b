"""The parts of a release, each tried on small things: zips and hashes, the joined pages, old editions, buttons.

`make release` makes all of it from the real pages, and `release/check.py` opens what came out.
"""

import re
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import browsing
import nbformat
import numpy as np
import pytest
import small_pages
import yaml
from bs4 import BeautifulSoup
from matplotlib import pyplot as plt
from sphinx.application import Sphinx

ROOT = browsing.ROOT
sys.path[:0] = [str(ROOT / "release"), str(ROOT / "book" / "_extension")]

import book_setup  # noqa: E402
import check  # noqa: E402
import contents  # noqa: E402
import draw_figures  # noqa: E402
import drawn  # noqa: E402
import launch  # noqa: E402
import make  # noqa: E402
import one_page  # noqa: E402
import publish  # noqa: E402
import reader_notebooks  # noqa: E402

HOST = "pages.invalid"  # a name that is kept free for examples
ADDRESS = f"https://{HOST}/book/"
REPOSITORY = "https://github.com/owner/a-book"


def test_the_pages_are_those_of_the_contents() -> None:
    pages = [page for part in contents.parts() for page in part.pages]
    assert [f"{page}.html" for page in pages] == browsing.pages()[:-1]


# Hashes, zips, pages in zips


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release of two pages that lead to each other, and its hashes."""
    site, folder = tmp_path / "site", tmp_path / "release"
    (site / "book").mkdir(parents=True)
    folder.mkdir()
    (site / "index.html").write_text('<a href="book/one.html#x">one</a><a href="#here">here</a>')
    (site / "book" / "one.html").write_text('<a href="../index.html">index</a><a href="https://doi.org/1">far</a>')
    make.zip_folder(site, folder / "book-1-site.zip", "book-1-site")
    make.write_sums(folder)
    return folder


def test_a_small_release_is_in_order(release: Path) -> None:
    assert check.faults(release) == []
    with zipfile.ZipFile(release / "book-1-site.zip") as opened:
        assert opened.namelist() == ["book-1-site/book/one.html", "book-1-site/index.html"]


def test_a_zip_of_the_same_files_has_the_same_bytes(release: Path, tmp_path: Path) -> None:
    (tmp_path / "site" / "index.html").touch()
    make.zip_folder(tmp_path / "site", tmp_path / "again.zip", "book-1-site")
    assert (tmp_path / "again.zip").read_bytes() == (release / "book-1-site.zip").read_bytes()


def break_page(release: Path) -> None:
    site = release.parent / "site"
    (site / "book" / "one.html").write_text('<a href="two.html">two</a>')
    make.zip_folder(site, release / "book-1-site.zip", "book-1-site")
    make.write_sums(release)


def add_file(release: Path) -> None:
    (release / "more.txt").write_text("more")


def change_file(release: Path) -> None:
    (release / "book-1-site.zip").write_bytes((release / "book-1-site.zip").read_bytes() + b" ")


def remove_file(release: Path) -> None:
    (release / "book-1-site.zip").unlink()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (break_page, "book-1-site/book/one.html: no book-1-site/book/two.html"),
        (add_file, "more.txt: not in the list"),
        (change_file, "book-1-site.zip: another hash"),
        (remove_file, "book-1-site.zip: only in the list"),
    ],
)
def test_planted_faults_are_found(release: Path, fault: Callable[[Path], None], message: str) -> None:
    fault(release)
    assert check.faults(release) == [message]


# Old editions


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """What a server shows: pages of today, and those of version 1, one of which has been given up since."""
    today, before = tmp_path / "html", tmp_path / "before"
    for folder in (today, before / publish.EDITIONS / "1"):
        (folder / "book").mkdir(parents=True)
        (folder / "index.html").write_text("<html><head></head><body><main>index</main></body></html>")
    old = before / publish.EDITIONS / "1" / "book" / "old.html"
    old.write_text("<html><head><link rel='canonical' href='x'></head><body><main>old</main></body></html>")
    publish.publish(tmp_path / "target", today, before, "2", keep=True, address=ADDRESS)
    return tmp_path / "target"


def page_of(file: Path) -> BeautifulSoup:
    return BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")


def head_of(file: Path) -> BeautifulSoup:
    return BeautifulSoup(file.read_text(encoding="utf-8").partition("</head>")[0], "html.parser")


@pytest.mark.parametrize(("page", "goal"), [("index.html", "index.html"), ("book/old.html", "index.html")])
def test_a_page_of_an_old_edition_leads_to_today(published: Path, page: str, goal: str) -> None:
    file = published / publish.EDITIONS / "1" / page
    (banner,) = page_of(file).select(f"#{publish.BANNER}")
    assert "version 1" in banner.get_text()
    assert (file.parent / banner.a["href"]).resolve() == (published / goal).resolve()
    (canonical,) = page_of(file).select("link[rel=canonical]")
    assert canonical["href"] == ADDRESS + goal


def test_pages_of_today_have_no_banner(published: Path) -> None:
    for file in [published / "index.html", published / publish.EDITIONS / "2" / "index.html"]:
        assert not page_of(file).select(f"#{publish.BANNER}")


def test_a_banner_is_put_once_and_leads_on(published: Path, tmp_path: Path) -> None:
    publish.publish(tmp_path / "next", tmp_path / "html", published, "3", keep=False)
    for version in ("1", "2"):
        page = page_of(tmp_path / "next" / publish.EDITIONS / version / "index.html")
        assert len(page.select(f"#{publish.BANNER}")) == 1
    assert not (tmp_path / "next" / publish.EDITIONS / "3").exists()


def test_an_edition_is_kept_as_it_was(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="edition 1 is there already"):
        publish.publish(tmp_path / "next", tmp_path / "html", published, "1", keep=True)


# What needs an address


def test_without_an_address_there_are_no_buttons() -> None:
    assert launch.targets("", ADDRESS, "book/one") == {}
    assert launch.targets(REPOSITORY, "", "book/one") == {}
    assert launch.targets(f"https://{HOST}/owner/a-book", ADDRESS, "book/one") == {}
    assert book_setup.addresses("", "book/one", None) == {}


@pytest.mark.parametrize("name", browsing.chapters())
def test_the_targets_of_the_buttons_are_published(name: str) -> None:
    """Colab and Binder open a file of a branch: that of the pages, with the reader's notebook in it."""
    browsing.build_if_stale()
    found = launch.targets(REPOSITORY, ADDRESS, f"book/{name}")
    colab = urlsplit(found["Colab"]).path.removeprefix(f"/github/owner/a-book/blob/{launch.BRANCH}/")
    binder = urlsplit(found["Binder"])
    assert binder.path == f"/v2/gh/owner/a-book/{launch.BRANCH}"
    (lab,) = parse_qs(binder.query)["urlpath"]
    assert colab == lab.removeprefix("lab/tree/")
    notebook = nbformat.read(browsing.HTML / colab, as_version=4)
    assert any("invlib" in cell.source for cell in notebook.cells)


def test_the_branch_of_the_buttons_is_the_one_that_is_published() -> None:
    workflow = (ROOT / ".github" / "workflows" / "pages.yml").read_text(encoding="utf-8")
    steps = yaml.safe_load(workflow)["jobs"]["publish"]["steps"]
    (step,) = [step for step in steps if step.get("name") == "Publish"]
    assert f"--initial-branch {launch.BRANCH}" in step["run"]
    assert step["run"].splitlines()[-1].endswith(f" {launch.BRANCH}")
    assert "release/publish.py" in step["run"]


def test_binder_has_the_versions_of_the_book(published: Path) -> None:
    pinned = set((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines())
    lines = (published / ".binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if not line.startswith("#")} <= pinned
    package = tomllib.loads((ROOT / "book" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {"torch", "numpy", "tqdm", "matplotlib", *package["dependencies"]} - {"invlib[drawing]"}
    assert {line.partition("==")[0] for line in lines if not line.startswith("#")} == needed
    assert (published / ".binder" / "runtime.txt").read_text(encoding="utf-8") == "python-3.11\n"


def test_with_an_address_a_notebook_installs_the_packages_of_the_pages() -> None:
    browsing.build_if_stale()
    wheels = sorted(path.name for path in (browsing.HTML / "wheels").glob("*.whl"))
    text, install = reader_notebooks.opening(ADDRESS, "book/one", wheels)
    assert f"({ADDRESS}book/one.html)" in text.source
    assert install.source.startswith("%pip install ")
    urls = [word for word in install.source.split() if word.startswith("https:")]
    assert len(urls) == len(wheels) == 2
    for url in urls:
        assert (browsing.HTML / url.removeprefix(ADDRESS)).exists()


@pytest.mark.parametrize("address", ["", ADDRESS])
def test_a_page_is_built_with_an_address_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """What needs the address of the pages is there with it, and nowhere without."""

    def place_wheels(app: Sphinx) -> None:
        (Path(app.outdir) / "wheels").mkdir(parents=True)
        (Path(app.outdir) / "wheels" / "invlib-1-py3-none-any.whl").touch()

    monkeypatch.setattr(reader_notebooks, "build_wheels", place_wheels)
    text = "# One\n\nA text that is long enough to be the description of this page.\n\n```{code-cell}\n1\n```\n"
    text += "\n:::{prf:theorem}\n:label: thm-one\n\nIt holds.\n:::\n\n$$ 1 = 1 $$ (eq-one)\n"
    text += "\nSee {prf:ref}`thm-one`, {ref}`ex-one` and {eq}`eq-one`.\n"
    text += "\n:::{exercise} A title\n:label: ex-one\n\nShow it.\n:::\n"
    page = small_pages.build(
        tmp_path,
        text,
        extensions=("book_setup", "reports", "reader_notebooks", "launch"),
        theme="sphinx_book_theme",
        more_settings={"html_baseurl": address, "html_theme_options": {"repository_url": REPOSITORY}},
    )
    notebook = nbformat.read(tmp_path / "html" / "_sources" / "index.ipynb", as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for file, _, label in (link.removeprefix(ADDRESS).partition("#") for link in re.findall(r"\]\((.*?)\)", text)):
        assert address
        assert file == "index.html"
        assert not label or page.find(id=label)
    assert page.select("a.report")
    assert "> **Exercise 1** (A title)" in text.split("\n"), "the link to a report is for the page"
    found = {
        "install": code[:-1],
        "canonical": [link["href"] for link in page.select("link[rel=canonical]")],
        "og": [tag["content"] for tag in page.select("meta[property='og:url']")],
        "buttons": [
            link["href"]
            for link in page.select(".article-header-buttons a[href^='https:']")
            if "_sources" in link["href"]
        ],
    }
    wanted = {
        "install": [f"%pip install --quiet {ADDRESS}wheels/invlib-1-py3-none-any.whl"],
        "canonical": [f"{ADDRESS}index.html"],
        "og": [f"{ADDRESS}index.html"],
        "buttons": list(launch.targets(REPOSITORY, ADDRESS, "index").values()),
    }
    assert found == (wanted if address else {part: [] for part in wanted})


def test_a_link_of_a_notebook_leads_to_the_page() -> None:
    from docutils import nodes

    writer = reader_notebooks.Writer("book/one", nbformat.v4.new_notebook(), {}, {}, ADDRESS)
    goals = {
        "book/one.html#thm": {"refid": "thm"},
        "book/one.html#cor": {"refuri": "#cor"},
        "book/two.html#thm": {"refuri": "two.html#thm"},
        "book/../index.html": {"refuri": "../index.html"},
    }
    for goal, target in goals.items():
        assert writer.link(nodes.reference("", "", internal=True, **target), "x") == f"[x]({ADDRESS}{goal})"


def test_the_address_and_the_first_picture_of_a_page() -> None:
    assert book_setup.addresses(ADDRESS, "book/one", None) == {"og:url": f"{ADDRESS}book/one.html"}
    from docutils import nodes
    from docutils.utils import new_document

    tree = new_document("one")
    tree += [nodes.image(uri="a/line.svg"), nodes.image(uri="a/points.png")]
    assert book_setup.addresses(ADDRESS, "book/one", tree)["og:image"] == f"{ADDRESS}_images/points.png"


def test_every_page_describes_itself() -> None:
    browsing.build_if_stale()
    for name in browsing.pages()[:-1]:
        page = head_of(browsing.HTML / name)
        tags = {tag.get("name") or tag.get("property"): tag["content"] for tag in page.select("meta[content]")}
        assert len(tags["description"]) > 30
        assert tags["og:title"]
        assert tags["og:type"] == "article"
        assert "og:url" not in tags
        assert not page.select("link[rel=canonical]")


# The book as one page, and its print

ONE = """<html><head><link rel="stylesheet" href="../_static/book.css?v=1"></head><body><article class="bd-article">
<section id="one"><h1>1. One<a class="headerlink" href="#one">#</a></h1><p id="here">Lemma 1.1
<a href="two.html#there">there</a> <a href="two.html">two</a> <a href="#here">here</a> <a href="two.html#lost">lost</a>
<a href="../genindex.html">index</a> <a href="https://doi.org/1">far</a></p>
<details><summary>Fold</summary><p>What is folded</p></details><pre>code = 1</pre>
<img src="../_images/a.png" loading="lazy" alt="a"></section></article></body></html>"""
TWO = """<html><head></head><body><article class="bd-article"><section id="two"><h1>2. Two</h1>
<p id="there">Theorem 2.1 <a href="one.html#here">here</a></p></section></article></body></html>"""
PARTS = [contents.Part("", ["book/one"]), contents.Part("A part", ["book/two"])]


@pytest.fixture
def small_site(tmp_path: Path) -> Path:
    """Two pages that lead to each other, and to what is not there."""
    (tmp_path / "html" / "book").mkdir(parents=True)
    (tmp_path / "html" / "book" / "one.html").write_text(ONE)
    (tmp_path / "html" / "book" / "two.html").write_text(TWO)
    return tmp_path / "html"


def test_links_between_pages_are_links_in_the_whole(small_site: Path) -> None:
    page = BeautifulSoup(one_page.whole(PARTS, small_site, "A book", "1"), "html.parser")
    links = {link.get_text(): link["href"] for link in page.select("section.page a")}
    assert links == {
        "there": "#book-two--there",
        "two": "#book-two",
        "here": "#book-one--here",
        "far": "https://doi.org/1",
    }
    assert all(page.find(id=link[1:]) for link in links.values() if link.startswith("#"))
    names = [element["id"] for element in page.find_all(id=True)]
    assert len(names) == len(set(names))
    assert page.img["src"] == "_images/a.png"
    assert page.select_one("link[rel=stylesheet]")["href"] == "_static/book.css"
    assert [line.get_text() for line in page.select("nav a, nav .part")] == ["1. One", "A part", "2. Two"]


def test_with_an_address_a_link_that_leaves_the_book_is_kept(small_site: Path) -> None:
    page = BeautifulSoup(one_page.whole(PARTS, small_site, "A book", "1", ADDRESS), "html.parser")
    assert page.find("a", string="index")["href"] == f"{ADDRESS}genindex.html"


@browsing.needs_browser
def test_a_small_book_is_printed(small_site: Path, tmp_path: Path) -> None:
    """With pikepdf only, which `make release` installs."""
    pytest.importorskip("pikepdf")
    import pdf

    text, file = one_page.whole(PARTS, small_site, "A book", "1"), tmp_path / "book.pdf"
    pdf.print_book(text, small_site, file)
    places = pdf.places(file)
    assert (places["book-one"], places["book-two"], places["book-two--there"]) == (3, 4, 4)
    assert pdf.faults(file, ["1. One", "2. Two"]) == []
    assert pdf.faults(file, ["3. Three"]) == ["no mark for '3. Three'"]

    opened = text.replace("What is folded", '<span style="display: block; height: 1500px">What is folded</span>')
    pdf.print_book(opened, small_site, file)
    assert pdf.places(file)["book-two"] == 5
    wide = text.replace("code = 1", f'<span style="display: inline-block; width: 3000px">{"x" * 9}</span>')
    with pytest.raises(ValueError, match="wider than the paper"):
        pdf.print_book(wide, small_site, tmp_path / "wide.pdf")


# Figures as drawings

CHAPTER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
---

# Small

```{code-cell}
from matplotlib import pyplot as plt
from invlib import drawing
```

```{code-cell}
---
mystnb:
  figure:
    caption: A line.
    name: fig-small-line
---
fig, ax = plt.subplots()
ax.plot([0, 1], [0, 1])
shown = keep = numpy = None
drawing.show(fig)
```
"""


def test_a_figure_is_drawn_with_its_arrays_under_its_label(tmp_path: Path) -> None:
    chapter, folder = tmp_path / "small.md", tmp_path / "drawn"
    chapter.write_text(CHAPTER, encoding="utf-8")
    assert draw_figures.draw(chapter, folder) == []
    assert (folder / "fig-small-line.pdf").read_bytes().startswith(b"%PDF")
    with np.load(folder / "fig-small-line.npz", allow_pickle=False) as arrays:
        assert arrays["panel1_curve1"].tolist() == [[0, 0], [1, 1]]
    chapter.write_text(CHAPTER.replace("drawing.show(fig)", "plt.close(fig)"), encoding="utf-8")
    (folder / "fig-small-line.pdf").unlink()
    assert draw_figures.draw(chapter, folder) == ["fig-small-line"]


def test_the_arrays_of_a_figure_are_what_it_was_given() -> None:
    x, values = np.linspace(-1, 2, 5), np.arange(12.0).reshape(3, 4)
    figure, (left, right) = plt.subplots(1, 2)
    left.plot(x, x**2)
    left.scatter(x, -x, c=x)
    left.fill_between(x, 0, 1 + x)
    left.set_title("left")
    right.imshow(values, extent=(0, 4, 0, 3))
    right.contour(values, levels=[2.5, 7.5])
    right.vlines([1, 2], 0, 3)
    right.quiver([0], [1], [2], [3])
    right.bar([1], [2], width=1)
    found = drawn.arrays_of(figure)
    plt.close(figure)
    assert np.allclose(found["panel1_curve1"], np.stack([x, x**2], 1))
    assert np.allclose(found["panel1_points1"], np.stack([x, -x, x], 1))
    assert {tuple(point) for point in np.stack([x, 1 + x], 1)} <= {tuple(point) for point in found["panel1_areas1"]}
    assert found["panel1_axes"].tolist() == ["left", "", ""]
    assert (found["panel2_picture1"] == values).all()
    assert found["panel2_picture_extent1"].tolist() == [0, 4, 0, 3]
    assert np.allclose(found["panel2_levels1"], [2.5, 7.5])
    assert np.allclose([found["panel2_contours1"][0] @ [1, 4]], [2.5])  # the values are linear: a level is a line
    assert np.array_equal(found["panel2_curves1"], [[1, 0], [1, 3], [np.nan] * 2, [2, 0], [2, 3]], equal_nan=True)
    assert found["panel2_arrows1"].tolist() == [[0, 1, 2, 3]]
    assert {(0.5, 0), (1.5, 2)} <= {tuple(point) for point in found["panel2_shape1"].tolist()}


# The workflow that publishes


@pytest.mark.parametrize(
    ("line", "set_"), [('  baseurl: ""', False), (f'  baseurl: "{ADDRESS}"', True), (f"  baseurl: {ADDRESS}", True)]
)
def test_the_workflow_publishes_only_where_there_is_an_address(line: str, set_: bool) -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "pages.yml").read_text(encoding="utf-8"))
    first, *others = [
        step for step in workflow["jobs"]["publish"]["steps"] if step.get("uses") != "actions/checkout@v4"
    ]
    (pattern,) = re.findall(r"grep -qE '(.*?)'", first["run"])
    assert bool(re.search(pattern, f"html:\n{line}\n", re.MULTILINE)) == set_
    assert all("steps.address.outputs.set" in step["if"] for step in others)
    settings = (ROOT / "_config.yml").read_text(encoding="utf-8")
    assert bool(re.search(pattern, settings, re.MULTILINE)) == bool(contents.address())
