r"""A coupling flow: the worked example of a network that is no residual network.

A coupling layer keeps every second coordinate and maps the others by $x_i \mapsto x_i e^{s_i} + t_i$, where s and t
are any functions of the coordinates that it keeps. So its inverse is $x_i = (z_i - t_i) e^{-s_i}$ with the same s and
t, and its Jacobian is triangular with $\log|\det| = \sum_i s_i$ (Dinh, Sohl-Dickstein and Bengio 2017).

How `CouplingFlow` meets the contract of `invlib.networks`, point by point:

- ``net(x)``: the layers, one after the other;
- ``net.inverse(z)``: their inverses in reverse order, in closed form, so differentiable without further ado. There is
  no iteration, hence no ``guess=`` and no ``tol=``: the losses see that and do not pass them;
- ``net.forward_and_log_det(x)``: overridden, since the closed form costs nothing;
- ``net.forward_and_jacobian(x)`` and ``net.forward_and_divergence(x)``: derived by `InvertibleNetwork`;
- ``net.members``: None, as inherited.
"""

import torch
from torch import Tensor, nn

from invlib import _checks
from invlib.networks import InvertibleNetwork, full_precision

LARGEST_LOG_SCALE = 2.0
"""A layer stretches a coordinate by a factor between $e^{-2}$ and $e^2$ (where s and t are held fixed)."""


class CouplingFlow(InvertibleNetwork):
    """Affine coupling layers with alternating masks. It starts as the identity.

    The results have the dtype of the points; s and t are computed in that of the parameters, in both directions alike,
    so that the inverse is as exact as the points.

    Args:
        dim: the dimension n >= 2.
        layers: the number of coupling layers; fewer than two leave a coordinate as it is.
        width: the size of the two hidden layers of a conditioner.
        generator: for the initial weights.

    Raises:
        ValueError: if an argument is out of its range, or points do not fit.

    Example:
        >>> net = CouplingFlow(2, generator=torch.Generator().manual_seed(0))
        >>> optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(1))
        >>> z = 2 * x
        >>> from invlib import log_det_loss
        >>> losses = []
        >>> for _ in range(20):
        ...     loss = log_det_loss(net, x, z, strength=0.1)
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     losses.append(loss.item())
        >>> losses[-1] < 0.5 * losses[0]
        True
        >>> torch.allclose(net.inverse(net(x)), x, atol=1e-5)
        True
    """

    def __init__(
        self,
        dim: int,
        *,
        layers: int = 6,
        width: int = 32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.dim = _checks.count("dim", dim, least=2)
        _checks.count("layers", layers)
        _checks.count("width", width)

        even = torch.arange(dim) % 2 == 0
        masks = [even if layer % 2 == 0 else ~even for layer in range(layers)]
        self.layers = nn.ModuleList(_Coupling(mask, width, generator) for mask in masks)

    def forward(self, x: Tensor) -> Tensor:
        """Return phi(x), of the shape of x, (..., n)."""
        return self.forward_and_log_det(x)[0]

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi(x) and log|det D phi(x)|, (...), the sum of all log-scales."""
        x = _checks.points("x", x, self.dim)
        log_det = torch.zeros_like(x[..., 0])
        for layer in self.layers:
            log_scale, shift = layer(x)
            x = x * log_scale.exp() + shift
            log_det = log_det + log_scale.sum(dim=-1)
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Return phi^{-1}(z), of the shape of z, (..., n)."""
        z = _checks.points("z", z, self.dim)
        for layer in reversed(self.layers):
            log_scale, shift = layer(z)  # it sees only what the layer has kept
            z = (z - shift) * (-log_scale).exp()
        return z


class _Coupling(nn.Module):
    """The log-scale s and the shift t of a layer, zero where the mask keeps a coordinate."""

    mask: Tensor

    def __init__(
        self, mask: Tensor, width: int, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        dim = len(mask)
        self.register_buffer("mask", mask)
        self.first = _linear(dim, width, generator)
        self.second = _linear(width, width, generator)
        self.last = _linear(width, 2 * dim, generator)
        nn.init.zeros_(self.last.weight)

    @full_precision
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept = (x * self.mask).to(self.first.weight.dtype)
        hidden = torch.tanh(self.first(kept))
        hidden = torch.tanh(self.second(hidden))
        output = self.last(hidden) * ~self.mask.repeat(2)
        log_scale, shift = output.to(x.dtype).chunk(2, dim=-1)
        return LARGEST_LOG_SCALE * torch.tanh(log_scale / LARGEST_LOG_SCALE), shift


def _linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    # Without torch's own initial weights
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    nn.init.xavier_normal_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
