"""Tests of stored experiments: the weights that a chapter shows come from the code that stands beside it."""

import importlib.util

import execute
import numpy as np
import pytest

SCRIPTS = sorted((execute.BOOK / "experiments").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_is_stored_comes_from_this_code(script):
    spec = importlib.util.spec_from_file_location(f"experiment_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    file = execute.CHECKS / f"{script.stem}.npz"
    assert file.stat().st_size < 200_000
    with np.load(file) as stored:
        assert str(stored["hash"]) == module.code_hash(), f"run {stored['command']} again"
        assert all(stored[f"{loss}/seconds"] > 0 for loss in module.SETTINGS)
