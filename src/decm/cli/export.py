"""`decm export`: a run's generator as a folder for Generator.from_pretrained, or as a graph for other runtimes."""

from pathlib import Path

from omegaconf import DictConfig

from decm.cli.evaluate import use_average
from decm.experiment.models import load_model
from decm.generator.graphs import FORMATS, write_graph
from decm.generator.model import Generator

PRETRAINED = "pretrained"


def task(cfg: DictConfig) -> None:
    """Write what `format` says into the folder `out`, whole or not at all, and say what it is."""
    out = Path(cfg.out)
    if cfg.format not in (PRETRAINED, *FORMATS):
        raise ValueError(f"format={cfg.format!r} is unknown; expected {PRETRAINED}, {' or '.join(FORMATS)}.")
    if out.is_file():
        raise ValueError(f"out={out} is a file; expected a folder, to be made.")
    if cfg.ema_sigma_rel is None:
        generator = Generator.from_pretrained(cfg.run, device="cpu")
    else:
        model = load_model(cfg.run, "cpu")
        use_average(model, cfg.ema_sigma_rel)
        generator = model.generator
        generator.config |= {"weights": f"average of sigma_rel {cfg.ema_sigma_rel}", "results": None}
    count = sum(value.numel() for value in generator.network.state_dict().values())
    what = f"{generator.config['weights']} of {cfg.run} at step {generator.config['step']}, {count:,} values"
    if cfg.format == PRETRAINED:
        generator.save_pretrained(out, cfg.overwrite)
        print(f'{out}: {what}. Use it as Generator.from_pretrained("{out}")')
        return
    file = out / FORMATS[cfg.format]
    error = write_graph(generator, cfg.format, file, cfg.overwrite)
    print(f"{file}: one step ({generator.sampler(1)}) from z and y to x, {what}; error relative to eager {error:.1e}")
