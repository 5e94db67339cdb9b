"""Tests of the certificates: each is proved by ball arithmetic alone, and each planted fault is refused."""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import laboratory_data
import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent / "book" / "certificates"
FILES = sorted(FOLDER.glob("*.json"))

sys.path.insert(0, str(FOLDER))

import verify  # noqa: E402

Claim = dict[str, Any]


def load(name: str) -> Claim:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_it_is_proved(path: Path) -> None:
    assert verify.verify(json.loads(path.read_text(encoding="utf-8")))


def test_there_is_one_of_each_kind() -> None:
    assert {load(path.stem)["kind"] for path in FILES} == set(verify.KINDS)


def test_they_belong_to_the_networks_of_the_laboratory() -> None:
    laboratory = laboratory_data.read()
    for stored in laboratory["networks"]:
        claim = load(f"network-{stored['problem']}-{stored['loss'].replace('_', '-')}")
        for layer, tensor in enumerate(laboratory_data.unpacked(stored)):
            kind = "biases" if layer % 2 else "weights"
            for block, expected in zip(claim["blocks"], tensor, strict=True):
                rows, scale = block[kind][layer // 2]
                found = torch.tensor(rows, dtype=torch.float64).reshape(expected.shape) * scale
                assert torch.equal(found, expected)
        fixed = laboratory["settings"]["problems"][stored["problem"]]
        assert [entry for row in claim["first"] for entry in row] == fixed["first"]
        assert [entry for row in claim["last"] for entry in row] == fixed["last"]


def test_they_serve_statements_of_the_book() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in FOLDER.parent.glob("*.md"))
    assert all(f":label: {label}\n" in text for path in FILES for label in load(path.stem)["statements"])


def grow_a_weight(claim: Claim) -> None:
    rows, _ = claim["blocks"][0]["weights"][1]
    rows[0][0] += 2000


def claim_a_smaller_norm(claim: Claim) -> None:
    claim["norms"][1][0] *= 0.999


def allow_a_steeper_block(claim: Claim) -> None:
    claim["lipschitz"] = 1.0


def move_a_point(claim: Claim) -> None:
    claim["x"][3][1] += 3e-6


def move_the_mean(claim: Claim) -> None:
    claim["mean"][0][0] += 1e-9


def swap_two_data(claim: Claim) -> None:
    claim["y"][:2] = claim["y"][1::-1]


def forget_the_normalization(claim: Claim) -> None:
    claim["log_evidence"][0] += 1e-3


def forget_half_of_the_noise(claim: Claim) -> None:
    claim["problem"]["noise_std"] /= 2**0.5


def take_the_mean_for_the_mode(claim: Claim) -> None:
    claim["modes"][0] = [load("posterior-line")["mean"][0]]


def name_one_of_two_modes(claim: Claim) -> None:
    del claim["modes"][1][0], claim["basins"][1][0]


def name_the_lower_mode_too(claim: Claim) -> None:
    claim["modes"][0].append(claim["modes"][1][1])
    claim["basins"][0].append(claim["basins"][1][1])


def widen_a_basin(claim: Claim) -> None:
    claim["basins"][0] = [1.0]


FAULTS: dict[str, list[Callable[[Claim], None]]] = {
    "network-identity-divergence": [grow_a_weight, claim_a_smaller_norm, allow_a_steeper_block, move_a_point],
    "posterior-line": [move_the_mean, swap_two_data, forget_the_normalization, forget_half_of_the_noise],
    "map-line": [
        take_the_mean_for_the_mode,
        swap_two_data,
        name_one_of_two_modes,
        name_the_lower_mode_too,
        widen_a_basin,
        forget_half_of_the_noise,
    ],
}


PLANTED = [(name, fault) for name, faults in FAULTS.items() for fault in faults]


@pytest.mark.parametrize(("name", "fault"), PLANTED, ids=[f"{name}-{fault.__name__}" for name, fault in PLANTED])
def test_a_planted_fault_is_refused(name: str, fault: Callable[[Claim], None]) -> None:
    claim = load(name)
    broken = copy.deepcopy(claim)
    fault(broken)
    assert broken != claim
    with pytest.raises(verify.NotProvedError):
        verify.verify(broken)


def test_the_program_says_what_is_not_proved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claim = load("posterior-line")
    move_the_mean(claim)
    (tmp_path / "broken.json").write_text(json.dumps(claim))
    assert verify.main([str(FOLDER / "map-line.json"), str(tmp_path / "broken.json")]) == 1
    proved, refuted = capsys.readouterr().out.splitlines()
    assert "NOT PROVED" not in proved
    assert refuted.startswith("broken: NOT PROVED: |posterior mean")
