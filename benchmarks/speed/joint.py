"""The joint way, restated as a baseline: one `torch.func.jvp` of the whole network, eager, with attention unfused.

F keeps its gradient graph and so does dF until the end, where it is cut; weights and names are those of our network.
"""

import warnings

from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn

from decm.networks.layers import Attention, Block


class NaiveAttention(nn.Module):
    """P v with P = softmax(scale q k^T) written out, on the layers of an `Attention`."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = attention.heads, attention.qkv, attention.proj
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        B, N, width = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each [B, heads, N, head_dim]
        q = apply_rot_embed_cat(self.q_norm(q), rope).to(v.dtype) * q.shape[-1] ** -0.5
        k = apply_rot_embed_cat(self.k_norm(k), rope).to(v.dtype)
        out = (q @ k.mT).softmax(dim=-1) @ v
        return self.proj(out.transpose(1, 2).reshape(B, N, width))


def make_joint(network: nn.Module) -> nn.Module:
    """The network, changed in place: it takes no tangents, so that FlowMap differentiates it as a whole."""
    warnings.filterwarnings("ignore", message=".*does not take tangents.*")
    network.supports_tangents = False
    for part in network.modules():
        if isinstance(part, Block):
            part.attn = NaiveAttention(part.attn)
    return network
