"""The autoencoders of latent diffusion (LDM's layout): VA-VAE f16d32 and SD-VAE f8d4, on diffusers' parts."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from decm.checkpoints.strict import load_strictly
from decm.networks.weights import LoadReport, State, read_state, refuse_twins

try:
    from diffusers import AutoencoderKL
except ImportError as error:
    raise ImportError("The autoencoders need diffusers: install decm with its extra, `decm[vae]`.") from error

KINDS: dict[str, dict[str, Any]] = {
    "f16d32": {  # VA-VAE (arXiv:2501.01423), its vavae_f16d32 configuration; latents are normalized by the dataset
        "channels": 128,
        "multipliers": (1, 1, 2, 2, 4),
        "latent_channels": 32,
        "attention": True,
        "scale": 1.0,
    },
    "f8d4": {  # SD-VAE (arXiv:2112.10752), its kl-f8 configuration; scale_factor of Stable Diffusion's
        "channels": 128,
        "multipliers": (1, 2, 4, 4),
        "latent_channels": 4,
        "attention": False,
        "scale": 0.18215,
    },
}
DROPPED = ("loss.", "foundation_model.", "linear_proj.", "model_ema.")  # of training alone
RENAMES = (  # LDM's names -> diffusers', in this order
    (r"\.(down|up)\.(\d+)\.block\.", r".\1_blocks.\2.resnets."),
    (r"\.(down|up)\.(\d+)\.attn\.", r".\1_blocks.\2.attentions."),
    (r"\.(down|up)\.(\d+)\.(down|up)sample\.", r".\1_blocks.\2.\3samplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.(q|k|v)\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"coder\.norm_out\.", "coder.conv_norm_out."),
    (r"(attentions\.\d+)\.query\.", r"\1.to_q."),  # these four: diffusers' names of old
    (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)


class Autoencoder(nn.Module):
    """encode: images [B, 3, H, W] in [-1, 1] -> latents [B, C, H / f, W / f], f = 2^(levels - 1); decode: back again.

    Latents are (z - shift) * scale of the network's own z. `attention` puts one after every residual block of the
    lowest level, besides the one in the middle. `half_precision` (by default: on CUDA) runs convolutions in bfloat16;
    results are float32. The weights are frozen. Raises ValueError for a scale that is not positive.
    """

    vae: Any  # diffusers' types name no attributes

    def __init__(
        self,
        channels: int,
        multipliers: Sequence[int],
        latent_channels: int,
        res_blocks: int = 2,
        attention: bool = False,
        scale: float = 1.0,
        shift: float = 0.0,
        half_precision: bool | None = None,
    ) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale={scale}: expected a positive number (latents are (z - shift) * scale).")
        plain, down, up = len(multipliers) - 1, "DownEncoderBlock2D", "UpDecoderBlock2D"
        self.vae = AutoencoderKL(
            block_out_channels=tuple(channels * multiplier for multiplier in multipliers),
            down_block_types=(down,) * plain + ("AttnDownEncoderBlock2D" if attention else down,),
            up_block_types=("AttnUpDecoderBlock2D" if attention else up,) + (up,) * plain,
            layers_per_block=res_blocks,
            latent_channels=latent_channels,
        )
        self.levels, self.latent_channels, self.factor = len(multipliers), latent_channels, 2**plain
        self.scale, self.shift, self.half_precision = scale, shift, half_precision
        self.report: LoadReport | None = None
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    @classmethod
    def from_file(cls, path: str | Path, kind: str) -> Self:
        """The autoencoder of a kind (f16d32: VA-VAE, f8d4: SD-VAE) with a file's weights; see `load` for errors."""
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is no autoencoder. Choose one of {', '.join(KINDS)}.")
        autoencoder = cls(**KINDS[kind])
        autoencoder.load(path)
        return autoencoder

    def load(self, weights: str | Path | Mapping[str, Any]) -> LoadReport:
        """Fill from a file or a state dict with LDM's names (or diffusers'); keeps the report in `report`.

        Raises ValueError for a file that cannot be read and for missing, misshapen or unknown keys.
        """
        state, source = read_state(weights)
        dropped = [key for key in state if key.startswith(DROPPED)]
        mapped = {key: self._rename(key) for key in state if key not in set(dropped)}
        refuse_twins(mapped, source)
        own = self.vae.state_dict()
        named = {name: _linear(state[key], own.get(name)) for key, name in mapped.items()}
        load_strictly(self.vae, named, f"{source} (by diffusers' names)", advice=lambda: _guess_kind(state))
        self.report = LoadReport(source, mapped, [], dropped)
        return self.report

    def _rename(self, key: str) -> str:
        key = re.sub(r"^decoder\.up\.(\d+)", lambda found: f"decoder.up.{self.levels - 1 - int(found[1])}", key)
        for pattern, replacement in RENAMES:
            key = re.sub(pattern, replacement, key)
        return key

    @torch.no_grad()
    def encode(self, images: Tensor, chunk: int = 16) -> tuple[Tensor, Tensor]:
        """(mean, log-variance) of the latents of images in [-1, 1], `chunk` at a time; the latter is not clamped.

        Raises ValueError for images of another shape, type or range, and for chunk < 1.
        """
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] != 3 or shape[2] % self.factor or shape[3] % self.factor:
            raise ValueError(f"Found images {shape}; expected [B, 3, H, W], H and W multiples of {self.factor}.")
        if not images.is_floating_point() or (images.numel() and not images.abs().amax() <= 1.01):
            raise ValueError(f"Found {images.dtype} images outside [-1, 1]. Scale 8-bit ones by x / 127.5 - 1.")
        moments = self._in_chunks(lambda x: self.vae.quant_conv(self.vae.encoder(x)), images, chunk)
        mean, logvar = moments.chunk(2, dim=1)
        return (mean - self.shift) * self.scale, logvar + 2 * math.log(self.scale)

    @torch.no_grad()
    def decode(self, latents: Tensor, chunk: int = 16, clamp: bool = True) -> Tensor:
        """Images in [-1, 1] (clamped, where `clamp`) of latents [B, C, h, w], `chunk` at a time.

        Raises ValueError for latents of another shape, and for chunk < 1.
        """
        if latents.dim() != 4 or latents.shape[1] != self.latent_channels:
            raise ValueError(f"Found latents {tuple(latents.shape)}; expected [B, {self.latent_channels}, h, w].")
        images = self._in_chunks(
            lambda z: self.vae.decoder(self.vae.post_quant_conv(z)), latents / self.scale + self.shift, chunk
        )
        return images.clamp(-1, 1) if clamp else images

    def _in_chunks(self, function: Callable[[Tensor], Tensor], inputs: Tensor, chunk: int) -> Tensor:
        if chunk < 1:
            raise ValueError(f"chunk={chunk}: expected at least one row at a time.")
        device = self.vae.quant_conv.weight.device
        narrow = device.type == "cuda" if self.half_precision is None else self.half_precision
        with torch.autocast(device.type, torch.bfloat16, enabled=narrow):
            rows = inputs.to(device, torch.float32).split(chunk)
            return torch.cat([function(row.contiguous(memory_format=torch.channels_last)).float() for row in rows])


def _linear(tensor: Tensor, expected: Tensor | None) -> Tensor:
    """A 1x1 convolution's weight [C, C, 1, 1] as a linear layer's [C, C], where that is expected."""
    if expected is not None and expected.dim() == 2 and tensor.dim() == 4 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    return tensor


def _guess_kind(state: State) -> str:
    quantizer = state.get("post_quant_conv.weight")
    if quantizer is None:
        return "They are not the weights of an LDM autoencoder."
    kinds = [kind for kind, settings in KINDS.items() if settings["latent_channels"] == quantizer.shape[0]]
    return (
        f"Their latents have {quantizer.shape[0]} channels: {f'try kind={kinds[0]!r}' if kinds else 'of no kind here'}."
    )
