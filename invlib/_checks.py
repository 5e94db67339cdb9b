"""Checks of arguments: each error names the argument, what it was and what was expected."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

LARGEST = 1e100
"""Points with larger entries are refused: their squares would leave the range of float64."""

SCALES = (1e-50, 1e50)
"""The admissible range of noise levels, singular values and standard deviations."""

HALF = (torch.float16, torch.bfloat16)


def as_float64(name: str, value: object) -> Tensor:
    """Return a copy of `value` (tensor, array or nested list) as a finite float64 tensor on the CPU."""
    try:
        tensor = _as_tensor(name, value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        if str(error).startswith(f"{name} must"):
            raise
        raise ValueError(
            f"{name} must be an array of real numbers, got {value!r}"
        ) from error

    on_cpu(name, tensor)
    full_precision(name, tensor)

    if (
        tensor.is_complex()
        or tensor.dtype == torch.bool
        or tensor.layout != torch.strided
    ):
        raise ValueError(f"{name} must be an array of real numbers, got {value!r}")

    return finite(name, tensor.to(torch.float64, copy=True))


def precision(value: object) -> torch.dtype:
    """Return the precision in which a tensor, an array or a list of them came: float32 or float64."""
    if isinstance(value, (list, tuple)) and len(value) > 0:
        return precision(value[0])
    single = isinstance(value, (Tensor, np.ndarray, np.generic)) and "float32" in str(
        value.dtype
    )
    return torch.float32 if single else torch.float64


def finite(name: str, tensor: Tensor) -> Tensor:
    """Return `tensor` if every entry is finite; inside `torch.func.vmap` entries cannot be read."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got {type(tensor).__name__}")
    if not every(torch.isfinite(tensor)):
        first = float(tensor[~torch.isfinite(tensor)][0])
        raise ValueError(f"{name} must be finite, got {first} among its entries")
    return tensor


def every(condition: Tensor) -> bool:
    """Return whether all entries are true; inside `torch.func.vmap`, where nobody can know, they count as true."""
    try:
        return bool(condition.all())
    except RuntimeError as error:
        if "vmap" in str(error):
            return True
        raise


def on_cpu(name: str, tensor: Tensor) -> Tensor:
    """Return `tensor` if it lies in the memory of the processor."""
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} must be on the cpu, got a tensor on {tensor.device}")
    return tensor


def full_precision(name: str, tensor: Tensor) -> Tensor:
    """Return `tensor` if it is not in half precision."""
    if tensor.dtype in HALF:
        raise ValueError(
            f"{name} must be float32 or float64, got half precision ({tensor.dtype})"
        )
    return tensor


def vectors(name: str, value: Tensor, dim: int) -> Tensor:
    """Return `value` if it is a floating-point tensor of shape (..., dim) whose entries are no larger than 1e100."""
    shaped_vectors(name, value, dim)
    on_cpu(name, value)
    finite(name, value)
    if not every(value.abs() <= LARGEST):
        largest = float(value.abs().max())
        raise ValueError(
            f"{name} must have entries between -1e100 and 1e100, got {largest:g}"
        )
    return value


def shaped_vectors(name: str, value: Tensor, dim: int) -> Tensor:
    """Return `value` if it is a floating-point tensor of shape (..., dim); its entries are not read."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise ValueError(f"{name} must have a floating-point dtype, got {value.dtype}")
    full_precision(name, value)
    if value.ndim < 1 or value.shape[-1] != dim:
        raise ValueError(
            f"{name} must have shape (..., {dim}), got {tuple(value.shape)}"
        )
    return value


def number(name: str, value: object) -> float:
    """Return `value` as a float if it is one finite real number; a truth value or a text is none."""
    if isinstance(value, Tensor):
        on_cpu(name, value)
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and value.ndim == 0:
        value = value.item()

    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} must be a number, got {value!r}")

    try:
        result = float(value)
    except OverflowError as error:
        raise ValueError(
            f"{name} must be a number below 1e308, got one that overflows"
        ) from error

    if not math.isfinite(result):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return result


def positive(name: str, value: object) -> float:
    """Return `value` as a float if it is a finite number > 0."""
    result = number(name, value)
    if result <= 0:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return result


def scale(name: str, value: object) -> float:
    """Return `value` as a float if it is a positive number between 1e-50 and 1e50."""
    result = positive(name, value)
    if not SCALES[0] <= result <= SCALES[1]:
        raise ValueError(f"{name} must lie between 1e-50 and 1e50, got {value!r}")
    return result


def open_unit(name: str, value: object) -> float:
    """Return `value` as a float if 0 < value < 1."""
    result = number(name, value)
    if not 0 < result < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value!r}")
    return result


def count(name: str, value: object, least: int = 1) -> int:
    """Return `value` if it is an integer >= `least`."""
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Integral)
        or value < least
    ):
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def flag(name: str, value: object) -> bool:
    """Return `value` if it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def cholesky_factors(
    name: str, matrices: Tensor, came_in: torch.dtype = torch.float64
) -> Tensor:
    """Return the Cholesky factors of a stack (..., n, n) of symmetric positive definite matrices.

    Args:
        name: of the argument.
        matrices: the stack, float64.
        came_in: the precision in which the matrices came: what was rounded to float32 is less symmetric.
    """
    size = matrices.abs().amax(dim=(-2, -1), keepdim=True)
    tolerance = 1e-10 if came_in == torch.float64 else 1e-4
    if not every((matrices - matrices.mT).abs() <= tolerance * size):
        raise ValueError(f"{name} must be symmetric, got {_short(matrices)}")

    variances = matrices.diagonal(dim1=-2, dim2=-1)
    least, most = SCALES[0] ** 2, SCALES[1] ** 2
    if every(variances > 0) and not every((variances >= least) & (variances <= most)):
        raise ValueError(
            f"{name} must have variances between 1e-100 and 1e100, got {_short(matrices)}"
        )

    factors: Tensor
    factors, info = torch.linalg.cholesky_ex(0.5 * (matrices + matrices.mT))
    if bool((info > 0).any()):
        raise ValueError(f"{name} must be positive definite, got {_short(matrices)}")
    return factors


def points(name: str, value: Tensor, dim: int | None = None) -> Tensor:
    """Return `value` if it is a tensor (..., dim) in single or double precision; its entries are not read."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got {type(value).__name__}")
    if value.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"{name} must have a floating-point dtype, float32 or float64, got {value.dtype}"
        )
    if value.ndim < 1 or dim not in (None, value.shape[-1]):
        raise ValueError(
            f"{name} must have shape (..., {dim or 'n'}), got {tuple(value.shape)}"
        )
    return value


def parameter_dtype(value: torch.dtype | None) -> torch.dtype | None:
    """Return `value` if it is single or double precision, or None."""
    if value not in (None, torch.float32, torch.float64):
        raise ValueError(
            f"dtype must be torch.float32, torch.float64 or None, got {value!r}"
        )
    return value


def metric(value: Tensor, dim: int, batch: tuple[int, ...]) -> Tensor:
    """Return `value` if it is a symmetric positive definite matrix (dim, dim), or one for each batch."""
    shapes = list(dict.fromkeys([(dim, dim), (*batch, dim, dim)]))
    if not isinstance(value, Tensor) or tuple(value.shape) not in shapes:
        found = tuple(value.shape) if isinstance(value, Tensor) else value
        raise ValueError(
            f"metric must be a tensor of shape {' or '.join(map(str, shapes))}, got {found}"
        )
    if value.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"metric must be float32 or float64, got {value.dtype}")
    matrix = finite("metric", value.detach())
    tolerance = torch.finfo(value.dtype).eps ** 0.5 * float(matrix.abs().max())
    if float((matrix - matrix.mT).abs().max()) > tolerance:
        raise ValueError(f"metric must be symmetric, got {matrix.tolist()}")
    if bool((torch.linalg.cholesky_ex(matrix).info > 0).any()):
        raise ValueError(f"metric must be positive definite, got {matrix.tolist()}")
    return value


def per_member(
    name: str, value: object, kind: type | tuple[type, ...], members: int | None
) -> list[Any]:
    """Return a list with one entry for each member, from one entry or a sequence of them.

    Raises:
        TypeError: if an entry has another type than `kind`.
        ValueError: if the number of entries does not fit.
    """
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and issubclass(float, kind):
        value = value.tolist()
    count = members or 1
    values = (
        list(value)
        if isinstance(value, Sequence) and not isinstance(value, kind)
        else [value] * count
    )
    if len(values) != count:
        raise ValueError(
            f"{name} must be one entry, or one for each of the {count} members, got {value!r}"
        )
    if not all(isinstance(v, kind) for v in values):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(k.__name__ for k in kinds)
        raise TypeError(
            f"{name} must be a {wanted}, or a sequence of one for each member, got {value!r}"
        )
    return values


def _as_tensor(name: str, value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()

    if isinstance(value, (list, tuple)):
        _check_entries(name, value)
        if any(isinstance(entry, Tensor) for entry in value):
            return torch.stack([torch.as_tensor(entry).detach() for entry in value])

    if np.ma.isMaskedArray(value):
        raise ValueError(
            f"{name} must not be a masked array: its mask would be lost, got {value!r}"
        )

    return torch.from_numpy(np.array(value))


def _check_entries(name: str, value: list[object] | tuple[object, ...]) -> None:
    """Refuse what numpy would silently turn into numbers."""
    for entry in value:
        if isinstance(entry, (list, tuple)):
            _check_entries(name, entry)
        elif isinstance(entry, (bool, np.bool_)):
            raise ValueError(
                f"{name} must be an array of real numbers, got {entry} among its entries"
            )
        elif np.ma.isMaskedArray(entry):
            raise ValueError(
                f"{name} must not be a masked array: its mask would be lost, got {entry!r}"
            )


def _short(matrices: Tensor) -> str:
    """A stack of matrices as text, and of large ones only the shape."""
    return (
        str(matrices.tolist())
        if matrices.numel() <= 64
        else f"matrices of shape {tuple(matrices.shape)}"
    )
