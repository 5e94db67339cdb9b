"""Tests of stored experiments: the weights that a chapter shows come from the code that stands beside it."""

import importlib

import execute
import numpy as np
import pytest

SCRIPTS = sorted((execute.BOOK / "experiments").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_is_stored_comes_from_this_code(script):
    module = importlib.import_module(f"experiments.{script.stem}")
    file = execute.CHECKS / f"{script.stem}.npz"
    assert file.stat().st_size < 200_000
    with np.load(file) as stored:
        assert str(stored["hash"]) == module.code_hash(), f"run {stored['command']} again"
        seconds = [stored[name] for name in stored.files if name.endswith("seconds")]
        assert seconds
        assert all((each > 0).any() for each in seconds)
