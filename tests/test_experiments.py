"""Tests of stored experiments: the weights that a chapter shows come from the code that stands beside it."""

import importlib

import execute
import numpy as np
import pytest
import torch
from checks import local_fields
from checks.tools import seeded

from invlib import divergence_loss

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


@pytest.mark.parametrize(("name", "members", "n"), [("divergence", 3, 64), ("pictures", 1, 576)])
def test_tied_networks_have_the_symmetries_of_the_field(name, members, n):
    net, x = local_fields.untrained(name, 3), 0.5 * torch.randn(members, 5, n, generator=seeded(1))
    plain = local_fields.network(3, members, net.shape)
    for act, holds in ((torch.neg, True), (lambda x: x.flip(-1), True), (lambda x: 2 * x, False)):
        assert torch.allclose(net(act(x)), act(net(x)), atol=1e-5) == holds
        assert not torch.allclose(plain(act(x)), act(plain(x)), atol=1e-2)
    before = [parameter.clone() for parameter in net.parameters()]
    local_fields.tie(net)
    assert all(torch.allclose(*pair) for pair in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize(("shape", "stiffness"), [((64,), 0.0), ((6, 8), 0.0), ((6, 8), 1.0)])
def test_probes_on_even_and_odd_sites_estimate_the_divergence_in_the_norm_of_the_training(shape, stiffness):
    net, random = local_fields.network(3, 3, shape, kernel=3), seeded(4)
    x, D = torch.randn(3, 1, net.dim, generator=seeded(2)), local_fields.Field(*shape).incidence()
    weight = torch.from_numpy(np.eye(net.dim) + stiffness * D.T @ D).float().inverse()
    many = x.expand(-1, 10, -1)
    data = [many + torch.randn(many.shape, generator=random) for _ in range(20)]
    with torch.no_grad():
        values = torch.stack([local_fields.coloured(net, many, z, stiffness) for z in data])
        net.exact = True
        exact = divergence_loss(net, x, x, local_fields.NOISE, metric=weight / weight[0, 0])
    assert ((values.mean(0) - exact).abs() < 4 * values.std(0) / len(values) ** 0.5).all()
    assert (values.std(0) < 0.2).all()
