"""Files and folders that the settings of a training name: looked for before anything heavy is imported."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

# Settings that name a file or folder which decm does not make by itself, and what it is.
FILES = {
    "data.path": "a prepared data set; `decm data` makes one of pictures, `decm latents encode` or `import` of latents",
    "teacher.path": "a run folder or a .ckpt file (teacher=checkpoint), or released weights (teacher=weights)",
    "evaluation.protocol.autoencoder.path": "the autoencoder's weights",
    "evaluation.protocol.reference": "reference statistics, as `decm reference` makes them",
    "evaluation.protocol.weights": "the weights of the features",
    "evaluation.protocol.dinov2.reference": "reference statistics of DINOv2's features",
    "evaluation.protocol.dinov2.weights": "DINOv2's weights",
}


def named_files(cfg: DictConfig) -> dict[str, Path]:
    """{setting: its file or folder} of those that a training reads; what decm keeps below runs/cache is left out."""
    named = {key: OmegaConf.select(cfg, key, default=None, throw_on_missing=False) for key in FILES}
    if cfg.teacher.kind not in ("checkpoint", "weights"):
        del named["teacher.path"]
    cache = Path(cfg.runs, "cache")
    return {key: Path(str(path)) for key, path in named.items() if path and cache not in Path(str(path)).parents}


def check_files(cfg: DictConfig) -> None:
    """Raise ValueError that names every setting whose file or folder is missing."""
    missing = {key: path for key, path in named_files(cfg).items() if not path.exists()}
    if missing:
        lines = [f"{key}={path} does not exist; expected {FILES[key]}." for key, path in missing.items()]
        first = f"{len(lines)} files are missing:\n  " if len(lines) > 1 else ""
        raise ValueError(first + "\n  ".join(lines))
