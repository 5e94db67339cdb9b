"""The pages are built without a warning. `make test` removes them, and this comes first, beside notebooks."""

import browsing
import pytest


def test_the_pages_are_built_without_a_warning() -> None:
    if browsing.is_fresh():
        pytest.skip("they are newer than all that they are made of")
    browsing.build_if_stale()
    assert browsing.is_fresh()
