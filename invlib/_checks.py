"""Checks of arguments: each raises a `ValueError` that names the argument, what it was and what was expected."""

import math
import numbers

import numpy as np
import torch
from torch import Tensor


def as_float64(name: str, value: object) -> Tensor:
    """Return a copy of `value` (tensor, array or nested list) as a finite float64 tensor."""
    try:
        if isinstance(value, (list, tuple)) and any(isinstance(entry, Tensor) for entry in value):
            value = torch.stack([entry.detach() for entry in value])
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        if tensor.is_complex():
            raise TypeError("complex entries")
        tensor = tensor.to(torch.float64, copy=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be an array of real numbers, got {value!r}") from error
    return finite(name, tensor)


def finite(name: str, tensor: Tensor) -> Tensor:
    """Return `tensor` if every entry is finite."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got {type(tensor).__name__}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} must be finite, got {float(tensor[~torch.isfinite(tensor)][0])} among its entries")
    return tensor


def vectors(name: str, value: Tensor, dim: int) -> Tensor:
    """Return `value` if it is a finite floating-point tensor of shape (..., dim)."""
    shaped_vectors(name, value, dim)
    return finite(name, value)


def shaped_vectors(name: str, value: Tensor, dim: int) -> Tensor:
    """Return `value` if it is a floating-point tensor of shape (..., dim); its entries are not read."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise ValueError(f"{name} must have a floating-point dtype, got {value.dtype}")
    if value.ndim < 1 or value.shape[-1] != dim:
        raise ValueError(f"{name} must have shape (..., {dim}), got {tuple(value.shape)}")
    return value


def positive(name: str, value: object) -> float:
    """Return `value` as a float if it is a finite number > 0."""
    number = _number(name, value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return number


def open_unit(name: str, value: object) -> float:
    """Return `value` as a float if 0 < value < 1."""
    number = _number(name, value)
    if not 0 < number < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value!r}")
    return number


def count(name: str, value: object, least: int = 1) -> int:
    """Return `value` if it is an integer >= `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def covariances(name: str, matrices: Tensor) -> Tensor:
    """Return the Cholesky factors of a stack (..., n, n) of symmetric positive definite matrices."""
    scale = matrices.abs().amax(dim=(-2, -1), keepdim=True)
    if not bool(((matrices - matrices.mT).abs() <= 1e-10 * scale).all()):
        raise ValueError(f"{name} must be symmetric, got {matrices.tolist()}")
    factors, info = torch.linalg.cholesky_ex(matrices)
    if bool((info > 0).any()):
        raise ValueError(f"{name} must be positive definite, got {matrices.tolist()}")
    return factors


def metric(value: Tensor, dim: int, members: int | None) -> Tensor:
    """Return `value` if it is a tensor of shape (dim, dim), or (members, dim, dim)."""
    shapes = [(dim, dim)] if members is None else [(dim, dim), (members, dim, dim)]
    if not isinstance(value, Tensor) or value.shape not in shapes:
        found = tuple(value.shape) if isinstance(value, Tensor) else value
        raise ValueError(f"metric must be a tensor of shape {' or '.join(map(str, shapes))}, got {found}")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise ValueError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be a number, got {value!r}") from error
