"""DINOv2, whose features are those of FDD."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from decm.checkpoints.strict import load_strictly, no_advice
from decm.features.extractor import KEY, check_images, read_weights

DINOV2_FILE = "dinov2_{arch}_pretrain.pth"
DINOV2_ORIGIN = "https://dl.fbaipublicfiles.com/dinov2/dinov2_{arch}/" + DINOV2_FILE
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Dinov2Features(nn.Module):
    """DINOv2's class token after the last norm, `pool`: the features of FDD (arXiv:2306.04675), ViT-L/14 there.

    Takes the official state dict (`dinov2_vitl14_pretrain.pth`). As in EDM2's evaluation, images go to 224 x 224 by
    antialiased bicubic interpolation; the 37 x 37 position embedding goes to 16 x 16 as DINOv2's own code does it.
    """

    name, metric, note = "dinov2", "fdd", ""
    resize = "bicubic to 224, antialiased (torch)"
    meaningless, labels_are_classes = False, False
    sizes: Mapping[str, tuple[str, int]] = {
        "vits14": ("small", 384),
        "vitb14": ("base", 768),
        "vitl14": ("large", 1024),
    }

    def __init__(self, weights: str | Path | None = None, key: str = KEY, arch: str = "vitl14") -> None:
        super().__init__()
        tensors = read_weights(weights, DINOV2_FILE.format(arch=arch), DINOV2_ORIGIN.format(arch=arch), key)
        import timm

        size, width = self.sizes[arch]
        self.dims = {"pool": width}
        self.network = timm.create_model(f"vit_{size}_patch14_dinov2", img_size=224, num_classes=0, pretrained=False)
        tensors = {name: value for name, value in tensors.items() if name != "mask_token"}  # used in its training alone
        if "pos_embed" in tensors:
            tensors["pos_embed"] = self.resized(tensors["pos_embed"], 224 // 14)
        load_strictly(self.network, tensors, str(weights), advice=no_advice)
        self.requires_grad_(False).eval()

    @staticmethod
    def resized(embedding: Tensor, side: int) -> Tensor:
        """[1, 1 + M^2, D] to [1, 1 + side^2, D]: bicubic with DINOv2's offset of 0.1, which shifts the grid."""
        M = round((embedding.shape[1] - 1) ** 0.5)
        if side == M:
            return embedding
        grid = embedding[:, 1:].float().reshape(1, M, M, -1).permute(0, 3, 1, 2)  # [1, D, M, M]
        scale = (side + 0.1) / M
        grid = nn.functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic", antialias=False)
        return torch.cat([embedding[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = check_images(images).to(next(self.network.parameters()).device).float()
        x = nn.functional.interpolate(x, size=(224, 224), mode="bicubic", antialias=True) / 255
        mean, std = (torch.tensor(values, device=x.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        return {"pool": self.network((x - mean) / std)}  # [N, D]
