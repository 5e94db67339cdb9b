"""Tests of `invlib.optimizers`: SOAP against Adam, its invariances, and the independence of stacked matrices."""

import oracles
import pytest
import torch
from torch import Tensor

from invlib.optimizers import SOAP


def descend(start: Tensor, target: Tensor, steps: int = 35, left: Tensor | None = None, right: Tensor | None = None):
    """SOAP on a smooth function of left* W right; returns the last W."""
    weight = start.clone().requires_grad_()
    left = torch.eye(start.shape[-2], dtype=start.dtype) if left is None else left
    right = torch.eye(start.shape[-1], dtype=start.dtype) if right is None else right
    optimizer = SOAP([weight], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (left.mT @ weight @ right - target).cosh().log().sum().backward()
        optimizer.step()
    return weight.detach()


def test_soap_of_one_by_one_matrices_is_adam():
    """All bases are +-1 and Adam does not see signs."""
    start, target = oracles.randn(6, 1, 1, seed=1), oracles.randn(6, 1, 1, seed=2)
    weight = start.clone().requires_grad_()
    adam = torch.optim.Adam([weight], lr=0.05, betas=(0.9, 0.95), eps=1e-8)
    for _ in range(35):
        adam.zero_grad()
        (weight - target).cosh().log().sum().backward()
        adam.step()
    torch.testing.assert_close(descend(start, target), weight.detach(), rtol=1e-10, atol=1e-10)


def test_a_stack_is_optimized_as_its_matrices_one_by_one():
    """Square matrices: the gradients of others have kernels, in which the basis is arbitrary."""
    start, target = oracles.randn(2, 3, 3, 3, seed=3), oracles.randn(2, 3, 3, 3, seed=4)
    together = descend(start, target)
    for e in range(2):
        for k in range(3):
            torch.testing.assert_close(together[e, k], descend(start[e, k], target[e, k]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (1, 4)])
def test_the_matrices_of_a_stack_do_not_see_each_other(shape):
    start, target = oracles.randn(2, 3, *shape, seed=3), oracles.randn(2, 3, *shape, seed=4)
    other = target.clone()
    other[1] += 1
    before, after = descend(start, target), descend(start, other)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_the_path_does_not_depend_on_the_orthonormal_basis_of_rows_and_columns():
    """Few steps: afterwards the rounding of nearly repeated eigenvalues separates the paths. Adam fails this."""
    start, target = oracles.randn(3, 4, seed=5), oracles.randn(3, 4, seed=6)
    left = torch.linalg.qr(oracles.randn(3, 3, seed=7)).Q
    right = torch.linalg.qr(oracles.randn(4, 4, seed=8)).Q
    plain = descend(start, target, steps=4)
    rotated = descend(left @ start @ right.mT, target, steps=4, left=left, right=right)
    assert (left.mT @ rotated @ right - plain).abs().max().item() < 1e-5
    assert (plain - start).abs().max().item() > 0.1


def test_soap_minimizes_an_ill_conditioned_quadratic():
    rotation = torch.linalg.qr(oracles.randn(4, 4, seed=9)).Q
    curvature = rotation @ torch.diag(torch.tensor([1e-3, 0.1, 1.0, 10.0], dtype=torch.float64)) @ rotation.mT
    weight = oracles.randn(4, 3, seed=10).requires_grad_()
    optimizer = SOAP([weight], lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 300)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = 0.5 * (weight * (curvature @ weight)).sum()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-4 * losses[0]


def test_the_eigenvectors_follow_the_averages_every_tenth_step():
    weight, targets = oracles.randn(3, 2, seed=11).requires_grad_(), oracles.randn(20, 3, 2, seed=12)
    optimizer = SOAP([weight], lr=0.1)
    for step, target in enumerate(targets, 1):
        optimizer.zero_grad()
        (weight * target).sum().backward()
        before = {side: optimizer.state[weight].get(f"{side}_basis") for side in ("left", "right")}
        optimizer.step()
        for side, basis in before.items():
            state = optimizer.state[weight]
            if step % 10 == 0:
                basis = torch.linalg.qr(state[side] @ basis).Q
                assert not torch.allclose(basis, before[side])
            if step > 1:
                torch.testing.assert_close(state[f"{side}_basis"], basis)


def test_zero_gradients_move_nothing_and_missing_gradients_are_skipped():
    still, free = (torch.ones(2, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = SOAP([still, free], lr=0.1)
    for _ in range(25):
        optimizer.zero_grad()
        (0.0 * still).sum().backward()
        optimizer.step()
    assert torch.equal(still, torch.ones_like(still))
    assert torch.equal(free, torch.ones_like(free))
    assert free not in optimizer.state
