"""Values with their tangents: each rule returns (y, dy) of a layer, where y keeps its gradient graph and dy has none.

Written out, the tangent costs one forward (a linear layer's is a single product: stock forward differentiation spends
a second one on a weight tangent that is zero), and since it is never part of the graph, the saved activations are
those of a plain forward.
"""

import torch
import torch.nn.functional as nnf
from timm.layers import RmsNorm
from torch import Tensor, nn

from decm.networks.attention import attention_dual, attention_tangent

WithTangent = tuple[Tensor, Tensor]  # (value, tangent)


def linear(layer: nn.Linear, x: Tensor, dx: Tensor) -> WithTangent:
    """W x + b, W dx."""
    y = layer(x)
    with torch.no_grad():
        return y, nnf.linear(dx, layer.weight)


def silu(x: Tensor, dx: Tensor) -> WithTangent:
    """x sigma(x), dx sigma(x) (1 + x (1 - sigma(x)))."""
    y = nnf.silu(x)
    with torch.no_grad():
        sigma = torch.sigmoid(x)
        return y, dx * sigma * (1 + x * (1 - sigma))


def sequential(layers: nn.Sequential, x: Tensor, dx: Tensor) -> WithTangent:
    """A chain of linear layers and SiLUs."""
    for layer in layers:
        x, dx = linear(layer, x, dx) if isinstance(layer, nn.Linear) else silu(x, dx)
    return x, dx


def rms_norm(layer: nn.Module, x: Tensor, dx: Tensor) -> WithTangent:
    """w x r with r = (mean x^2 + eps)^(-1/2), and w (dx - x r^2 mean(x dx)) r; (x, dx) itself for an identity."""
    if not isinstance(layer, RmsNorm):
        return x, dx
    y = layer(x)
    with torch.no_grad():
        r2 = 1 / (x.square().mean(-1, keepdim=True) + layer.eps)
        return y, (dx - x * (r2 * (x * dx).mean(-1, keepdim=True))) * (r2.sqrt() * layer.weight)


def modulate(x: Tensor, dx: Tensor, shift: WithTangent, scale: WithTangent) -> WithTangent:
    """x (1 + scale) + shift over tokens [B, N, width], with [B, width] modulation."""
    y = torch.addcmul(shift[0][:, None], x, 1 + scale[0][:, None])
    with torch.no_grad():
        dy = torch.addcmul(shift[1][:, None], dx, 1 + scale[0][:, None])
        return y, dy.addcmul_(x, scale[1][:, None])


def gated_sum(x: WithTangent, gate: WithTangent, branch: WithTangent) -> WithTangent:
    """x + gate branch over tokens [B, N, width], with a [B, width] gate."""
    y = torch.addcmul(x[0], gate[0][:, None], branch[0])
    with torch.no_grad():
        dy = torch.addcmul(x[1], gate[0][:, None], branch[1])
        return y, dy.addcmul_(gate[1][:, None], branch[0])


def swiglu(layer: nn.Module, x: Tensor, dx: Tensor) -> WithTangent:
    """W2 (silu(a) b) with (a, b) = W1 x: timm's SwiGLUPacked."""
    h, dh = linear(layer.fc1, x, dx)  # type: ignore[arg-type]
    (a, b), (da, db) = h.chunk(2, dim=-1), dh.chunk(2, dim=-1)
    gate, dgate = silu(a, da)
    hidden = gate * b
    with torch.no_grad():
        dhidden = dgate.mul_(b).addcmul_(gate, db)
    return linear(layer.fc2, hidden, dhidden)  # type: ignore[arg-type]


def attention(q: WithTangent, k: WithTangent, v: WithTangent) -> WithTangent:
    """(o, do) by networks/attention.py; o by fused attention where it needs a gradient, so that this is fused too."""
    if not (torch.is_grad_enabled() and any(part[0].requires_grad for part in (q, k, v))):
        return attention_dual(q[0], k[0], v[0], q[1], k[1], v[1])
    o = nnf.scaled_dot_product_attention(q[0], k[0], v[0])
    with torch.no_grad():
        return o, attention_tangent(q[0], k[0], v[0], q[1], k[1], v[1], o)
