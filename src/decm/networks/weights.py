"""Weights from files, strictly: every key is mapped, or named as new or as dropped, or refused."""

import math
import pickle
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from decm.checkpoints.strict import load_strictly, shortened
from decm.networks.dit import LightningDiT

State = dict[str, Tensor]

NESTS = ("ema", "model", "state_dict")  # where checkpoints keep their weights; the first that is found is taken
WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
TORCH_FILES = (".pt", ".pth", ".ckpt")
DERIVED = ("feat_rope",)  # buffers that the network computes from its shape
RENAMES = {  # LightningDiT's and FACM's names -> ours; our own names contain none of the former
    "adaLN_modulation.": "adaln.",
    "mlp.w12.": "mlp.fc1.",
    "mlp.w3.": "mlp.fc2.",
    "r_embedder.": "s_embedder.",
    "y_embedder.embedding_table.": "y_embedder.",
    "x_embedder.proj.": "x_embedder.",
    "final_layer.norm_final.": "final_layer.norm.",
}
PRESETS = {  # conf/network: width, depth, patch size (a test keeps the two equal)
    "lightningdit_b_1": (768, 12, 1),
    "lightningdit_b_2": (768, 12, 2),
    "lightningdit_l_2": (1024, 24, 2),
    "lightningdit_xl_1": (1152, 28, 1),
    "lightningdit_xl_2": (1152, 28, 2),
    "lightningdit_1p0b": (1536, 24, 1),
    "lightningdit_1p6b": (1792, 28, 1),
}
SHARED = {"in_channels": 32, "input_size": 16, "num_classes": 1000, "qk_norm": False, "two_times": True}  # in each

TWO_TIMES_HINT = (
    "The weights are of a two-time network and this one ignores s: set network.two_times=true, or drop the end "
    'embedding knowingly with drop=("s_embedder",).\n'
)


@dataclass(frozen=True)
class LoadReport:
    """What became of every key: `mapped` (the file's name -> ours), `new` (ours, not in the file), `dropped`."""

    source: str
    mapped: dict[str, str]
    new: list[str]
    dropped: list[str]

    def __str__(self) -> str:
        def named(keys: list[str]) -> str:
            return f"{len(keys)} ({shortened(keys)})" if keys else "none"

        return (
            f"Loaded {len(self.mapped)} tensors from {self.source}. New, kept as initialized: {named(self.new)}. "
            f"Dropped from the file: {named(self.dropped)}."
        )


def load_weights(
    network: LightningDiT, weights: str | Path | Mapping[str, Any], drop: Sequence[str] = ()
) -> LoadReport:
    """Fill `network`, in place, from a file or a state dict in LightningDiT's, FACM's or our own names.

    A two-time network takes one-time weights: its end embedding is new and stays zero, so F(x, t, s) = v(x, t). The
    reverse must be asked for with drop=("s_embedder",); `drop` names keys, or what stands before a dot in them.
    Raises ValueError for a file that cannot be read, for missing, misshapen or unknown keys (and then guesses the
    preset that would fit), for a `drop` without effect, and for an end embedding that would be new but is not zero.
    """
    state, source = read_state(weights)
    named, mapped, dropped = _translate(state, (*DERIVED, *drop), source)
    for prefix in drop:
        if not any(_under(key, prefix) or _under(_rename(key), prefix) for key in dropped):
            raise ValueError(f"drop={prefix!r} matches no key of {source}. Remove it from `drop`.")
    new = _new_end_embedding(network, named)
    if new:
        _refuse_trained(network, source)

    def advice() -> str:
        hint = "" if network.two_times or not any(_under(key, "s_embedder") for key in named) else TWO_TIMES_HINT
        return f"{hint}{guess_preset(named)}"

    load_strictly(network, named, source, optional=lambda key: key in new, advice=advice)
    return LoadReport(source, mapped, new, dropped)


def _new_end_embedding(network: LightningDiT, named: State) -> list[str]:
    """Our keys of an end embedding that the file does not have at all."""
    ours = [key for key in network.state_dict() if _under(key, "s_embedder")]
    return [] if any(key in named for key in ours) else ours


def _refuse_trained(network: LightningDiT, source: str) -> None:
    """Raises ValueError where the end embedding is not zero: with the weights of another network, F were not v."""
    assert network.s_embedder is not None
    if any(parameter.any() for parameter in network.s_embedder.mlp[2].parameters()):
        raise ValueError(
            f"{source} has one time, and the network's end embedding (s_embedder) is already trained: expected its "
            "last layer to be zero, so that F(x, t, s) = v(x, t). Load into a newly made network."
        )


def _rename(key: str) -> str:
    for theirs, ours in RENAMES.items():
        key = key.replace(theirs, ours)
    return key


def _under(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(prefix.rstrip(".") + ".")


def _translate(state: State, drop: Iterable[str], source: str) -> tuple[State, dict[str, str], list[str]]:
    """(the weights by our names, the file's name -> ours, what was dropped)."""
    dropped = [key for key in state if any(_under(key, prefix) or _under(_rename(key), prefix) for prefix in drop)]
    mapped = {key: _rename(key) for key in state if key not in set(dropped)}
    refuse_twins(mapped, source)
    return {name: state[key] for key, name in mapped.items()}, mapped, dropped


def refuse_twins(mapped: dict[str, str], source: str) -> None:
    """Raises ValueError where two of the file's names (keys of `mapped`) mean one weight (value)."""
    if len(set(mapped.values())) < len(mapped):
        twice = [key for key, name in mapped.items() if list(mapped.values()).count(name) > 1]
        raise ValueError(f"{source} names the same weight twice: {shortened(twice)}. Expected one layout of names.")


def guess_preset(state: State) -> str:
    """A sentence: the preset, and the overrides of it, whose network would take these weights (by our names)."""
    embedding = state.get("x_embedder.weight")
    blocks = {key.split(".")[1] for key in state if _under(key, "blocks")}
    if embedding is None or embedding.dim() != 4 or not blocks:
        return "They are not the weights of a LightningDiT."
    width, channels, patch, _ = embedding.shape
    settings: dict[str, Any] = {"in_channels": channels}
    if "pos_embed" in state:
        settings["input_size"] = patch * math.isqrt(state["pos_embed"].shape[1])
    if "y_embedder.weight" in state:
        settings["num_classes"] = state["y_embedder.weight"].shape[0] - 1
    settings["qk_norm"] = any(key.endswith("attn.q_norm.weight") for key in state)
    sizes = (width, len(blocks), patch)
    found = f"width {width}, depth {len(blocks)}, patch size {patch}, {channels} channels"
    fitting = next((name for name, preset in PRESETS.items() if preset == sizes), None)
    overrides = " ".join(
        f"network.{name}={str(value).lower()}" for name, value in settings.items() if value != SHARED[name]
    )
    if fitting is None:
        return f"No preset has their sizes ({found}). Set hidden_size, depth and patch_size {overrides}".strip() + "."
    return f"They would fit network={fitting} {overrides}".strip() + f" ({found})."


def read_state(weights: str | Path | Mapping[str, Any]) -> tuple[State, str]:
    """The state dict of a file, or of a nested mapping, and where it was found; nothing in a file is executed.

    Takes what stands under `ema`, else `model`, else `state_dict`, else the whole, and removes a wrapper's prefix.
    Raises ValueError where there is no such file, where it is not a safe one, and where it holds no state dict.
    """
    content, source = (
        (weights, "a state dict") if isinstance(weights, Mapping) else (_read(Path(weights)), str(weights))
    )
    for nest in NESTS:
        if isinstance(content.get(nest), Mapping):
            content, source = content[nest], f"{source} (under {nest!r})"
            break
    odd = [
        f"{k} ({type(v).__name__})" for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor))
    ]
    if odd or not content:
        raise ValueError(
            f"{source} is not a state dict: expected tensors by name, at the top or under one of {', '.join(NESTS)}; "
            f"found {shortened(odd) if odd else 'nothing'}."
        )
    for prefix in WRAPPERS:
        if all(key.startswith(prefix) for key in content):
            content, source = (
                {key.removeprefix(prefix): v for key, v in content.items()},
                f"{source} without {prefix!r}",
            )
    return dict(content), source


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ValueError(
            f"There is no weights file {path}. Give the path of a {', '.join(TORCH_FILES)} or .safetensors."
        )
    if path.suffix not in (*TORCH_FILES, ".safetensors"):
        raise ValueError(f"{path} ends in {path.suffix!r}; expected one of {', '.join(TORCH_FILES)}, .safetensors.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} was refused: expected tensors in plain containers, found an incomplete file or objects whose "
            "reading could run code. Where you trust its origin, save its state dict alone as .safetensors; give that."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as weights ({error}). Fetch it again if it is incomplete.") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a state dict.")
    return content
