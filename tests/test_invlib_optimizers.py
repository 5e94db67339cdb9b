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


# The contract of torch's optimizers


def run(optimizer: torch.optim.Optimizer, parameters: list[Tensor], targets: list[Tensor], steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        sum((p - t).cosh().log().sum() for p, t in zip(parameters, targets, strict=True)).backward()
        optimizer.step()


@pytest.mark.parametrize("shape", [(), (5,)])
def test_vectors_and_scalars_are_optimized_by_adam(shape):
    start, target = (oracles.randn(5, seed=seed)[0 if shape == () else slice(5)] for seed in (1, 2))
    ours, adams = (start.clone().requires_grad_() for _ in range(2))
    run(SOAP([ours], lr=0.05), [ours], [target], 35)
    run(torch.optim.Adam([adams], lr=0.05, betas=(0.9, 0.95), eps=1e-8), [adams], [target], 35)
    torch.testing.assert_close(ours.detach(), adams.detach(), rtol=1e-10, atol=1e-10)


def test_flattened_kernels_are_matrices_with_one_row_for_each_output():
    start, target = oracles.randn(4, 3, 2, 2, seed=3), oracles.randn(4, 3, 2, 2, seed=4)
    kernel, matrix = start.clone().requires_grad_(), start.reshape(4, 12).clone().requires_grad_()
    run(SOAP([{"params": [kernel], "flatten": True}], lr=0.05), [kernel], [target], 25)
    run(SOAP([matrix], lr=0.05), [matrix], [target.reshape(4, 12)], 25)
    assert torch.equal(kernel.detach().reshape(4, 12), matrix.detach())


def test_groups_have_their_own_learning_rates_and_can_be_added():
    first, second = (oracles.randn(3, 3, seed=5).requires_grad_() for _ in range(2))
    optimizer = SOAP([first], lr=0.05)
    optimizer.add_param_group({"params": [second], "lr": 0.0})
    before = second.detach().clone()
    run(optimizer, [first, second], [torch.zeros(3, 3)] * 2, 5)
    assert torch.equal(second.detach(), before)
    assert float((first.detach() - before).abs().max()) > 0.1


def test_a_saved_state_continues_bit_for_bit():
    shapes, targets = [(2, 3, 4), (5,)], [oracles.randn(2, 3, 4, seed=6), oracles.randn(5, seed=7)]
    whole, parts = ([oracles.randn(*shape, seed=8).requires_grad_() for shape in shapes] for _ in range(2))
    run(SOAP(whole, lr=0.05), whole, targets, 33)
    first = SOAP(parts, lr=0.05)
    run(first, parts, targets, 14)
    second = SOAP(parts, lr=0.9)
    second.load_state_dict(first.state_dict())
    run(second, parts, targets, 19)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_a_closure_is_evaluated_and_its_loss_returned():
    ours, plain = (oracles.randn(2, 2, seed=9).requires_grad_() for _ in range(2))
    optimizer = SOAP([ours], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = ours.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(plain.detach().square().sum().item())
    other = SOAP([plain], lr=0.1)
    plain.square().sum().backward()
    assert other.step() is None
    assert torch.equal(ours, plain)


@pytest.mark.parametrize("lr", [-1, float("nan"), float("inf"), "a", None, True])
def test_a_bad_learning_rate_is_refused_also_in_a_group(lr):
    weight = torch.zeros(2, 2, requires_grad=True)
    with pytest.raises(ValueError, match=r"^lr must be a number >= 0"):
        SOAP([weight], lr=lr)
    with pytest.raises(ValueError, match=r"^lr must be a number >= 0"):
        SOAP([{"params": [weight], "lr": lr}], lr=0.1)
    with pytest.raises(ValueError, match=r"^flatten must be True or False"):
        SOAP([weight], lr=0.1, flatten="yes")


def test_complex_gradients_are_refused():
    weight = torch.zeros(2, 2, dtype=torch.complex64, requires_grad=True)
    weight.grad = torch.ones_like(weight)
    with pytest.raises(ValueError, match=r"^parameters must have dense, real gradients"):
        SOAP([weight], lr=0.1).step()
