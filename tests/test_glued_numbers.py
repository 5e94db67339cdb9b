"""Tests of how numbers from code are set on a page."""

import re
from pathlib import Path

import pytest
import small_pages

import benchmark_tables  # isort: skip  (small_pages shows the way to it)
import glued_numbers  # isort: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6e-10", "6·10^−10"),
        ("-3.2e-07", "−3.2·10^−7"),
        ("1e-10", "10^−10"),
        ("1.0e-10", "1.0·10^−10"),
        ("1e+08", "10^8"),
        ("2.5e+00", "2.5"),
        ("0e+00", "0"),
        ("-0.0", "0.0"),
        ("-0.00", "0.00"),
        ("-0", "0"),
        ("-0.0e+00", "0.0"),
        (" 0.8", "0.8"),
        ("-1.25", "−1.25"),
        ("+1.25", "+1.25"),
        ("3,600", "3,600"),
        ("1/3", "1/3"),
        ("12%", "12\N{NO-BREAK SPACE}%"),
        ("(0.9, -0.1)", "(0.9, −0.1)"),
        ("0.4 (0.3\N{EN DASH}0.5)", "0.4 (0.3\N{EN DASH}0.5)"),
        ("2 of 3", "2 of 3"),
        ("3-5", "3-5"),
        ("1e-3 to 2e-2", "10^−3 to 2·10^−2"),
        ("no number", "no number"),
        ("x-1", "x-1"),
        ("v1.2.3", "v1.2.3"),
        ("", ""),
    ],
)
def test_a_number_is_set_as_in_a_book(text: str, expected: str) -> None:
    parts = glued_numbers.parts_of(text)
    assert "".join(line + (f"^{exponent}" if exponent else "") for line, exponent in parts) == expected


@pytest.mark.parametrize(
    ("value", "spec", "expected"),
    [
        ("0.8377", ".1f", "0.8"),
        ("0.8377", ">.1f", "0.9"),
        ("5.2867", "<.2f", "5.28"),
        ("-0.1234", ">.2f", "-0.12"),
        ("0.13493", ">.0%", "14%"),
        ("6.304e-10", ">.0e", "7e-10"),
        ("9.51e-10", "<.0e", "9e-10"),
        ("12345.6", "<,.0f", "12,345"),
        ("0.30000000000000004", ">.1f", "0.3"),  # what a computation adds is no reason to round up
        ("4.9999999999999998", "<.0f", "5"),
    ],
)
def test_a_bound_stays_one_when_it_is_rounded(value: str, spec: str, expected: str) -> None:
    assert glued_numbers.format_bound(value, spec) == expected


BOUND = re.compile(
    r"\b(?:at least|at most|no less than|no more than|more than|less than|above|below|within|up to)"
    r"\s+(?:the factor |a factor of |by )?(?:\$[^$`]*=\s*\$\s*)?\{glue:text\}`[^`]+:(,?\.\d+[ef%])`"
)


def test_bounds_in_the_chapters_are_rounded_as_bounds() -> None:
    assert BOUND.search("is at most {glue:text}`x:.1f`")
    assert not BOUND.search("is at most {glue:text}`x:>.1f`")
    pages = sorted((Path(__file__).parents[1] / "book").glob("*.md"))
    found = [f"{page.name}: {bound[0]}" for page in pages for bound in BOUND.finditer(page.read_text(encoding="utf-8"))]
    assert not found


PAGE = """\
# A page

```{code-cell} ipython3
1
```

```{code-cell} ipython3
---
mystnb:
  figure:
    caption: The error is {glue:text}`small:.0e`.
    name: fig-one
---
2
```

Off by {glue:text}`small:.0e`, or {glue:text}`low:.1f`, at most {glue:text}`small:>.0e`.
At s = {glue:text}`padded: .1f`. That is {glue:text}`padded:.1f` %, or 5 % more.

| error | shift |
|:--|--:|
| {glue:text}`small:.0e` | {glue:text}`nothing:.2f` |

`-0.0 6e-10` stays, as `5 % 2` does. In 95 % of them, {glue:text}`padded: .1f` % more.
"""


def test_numbers_of_code_are_set_in_text_tables_and_captions(tmp_path: Path) -> None:
    values = small_pages.glued(small=6.1e-10, low=-2.5, padded=0.8, nothing=-1e-9)
    page = small_pages.build(tmp_path, PAGE, {0: values, 1: [small_pages.png()]}, extensions=("glued_numbers",))
    number = "6·10<sup>−10</sup>"
    assert number in str(page.find("figcaption"))
    html = page.decode()
    assert html.count(number) == 3
    assert 'at most <span class="pasted-text">7·10<sup>−10</sup></span>.' in html
    assert 'or <span class="pasted-text">−2.5</span>, at most' in html
    assert 'At s = <span class="pasted-text">0.8</span>.' in html
    assert [cell.get_text() for cell in page.find_all("td")] == ["6·10−10", "0.00"]
    assert "-0.0" in page.find("code").get_text()
    assert "6e-10" in page.find("code").get_text()
    assert "5 % 2" in [code.get_text() for code in page.find_all("code")]
    assert "In 95\N{NO-BREAK SPACE}% of" in html
    assert "0.8</span>\N{NO-BREAK SPACE}% more" in html


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3.2e-7, "3.2·10{sup}`−7`"),
        (0.0, "0.00"),
        (12.0, "12.0"),
        (2345.6, "2,346"),
        (7, "7"),
        (65536, "65,536"),
        (True, "yes"),
    ],
)
def test_tables_of_benchmarks_have_no_computer_notation(value: object, expected: str) -> None:
    assert benchmark_tables.as_text(value) == expected
