"""What can be checked in the settings alone, before a folder is made, a teacher trained or a sample drawn."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from decm.data.loader import micro_batch_size
from decm.evaluation.judge import Judge
from decm.experiment.build import segment_names
from decm.experiment.compilation import CHOICES
from decm.experiment.expected import expected_curves
from decm.flow.derivative import ENGINES
from decm.flow.solvers import check_steps, choose_sampler
from decm.settings.constructors import TARGET
from decm.settings.limits import check_name
from decm.training.sharding import PRECISIONS


def check_settings(cfg: DictConfig) -> None:
    """Raise ValueError for a setting that would otherwise be found wrong after the training, or never."""
    check_name(cfg.name)
    for key in ("data", "network", "optimizer", "schedule", "evaluation.protocol"):
        node = OmegaConf.select(cfg, key)
        if not isinstance(node, DictConfig) or TARGET not in node:
            raise ValueError(f"{key}={node} is not a mapping with {TARGET}, the constructor and its arguments.")
    _at_least(1, {"max_steps": cfg.max_steps, "accumulate": cfg.accumulate})
    _at_least(0, {"guard.rollbacks": cfg.guard.rollbacks, "snapshots.every": cfg.snapshots.every})
    _at_least(0, {f"trainer.{key}": cfg.trainer[key] or 0 for key in ("threads", "clip_norm")})
    _at_least(1, {f"trainer.{key}": cfg.trainer[key] for key in ("checkpoint_every", "keep", "log_every")})
    if not 0 <= cfg.label_drop <= 1:
        raise ValueError(f"label_drop={cfg.label_drop}; expected a share between 0 and 1.")
    _check_trainer(cfg)
    micro_batch_size(cfg.batch_size, 1, cfg.accumulate)
    path = cfg.teacher.path if cfg.teacher.kind == "weights" and not cfg.dry_run else None
    if path and not Path(path).is_file():
        raise ValueError(f"teacher.path={path} does not exist; expected the weights file of the teacher.")
    if not cfg.distill and cfg.teacher.kind == "none":
        raise ValueError("distill=false scores the teacher, and teacher=none is none. Choose another `teacher`.")
    if not cfg.distill and cfg.warm_start is not None:
        raise ValueError("warm_start has no effect with distill=false, which trains no student.")
    if not cfg.distill and cfg.dry_run:
        raise ValueError("dry_run=true describes a distillation; with distill=false there is none.")
    check_evaluation(cfg)
    expected_curves(cfg)


def _check_trainer(cfg: DictConfig) -> None:
    t = cfg.trainer
    if cfg.jvp not in ENGINES:
        raise ValueError(f"jvp={cfg.jvp!r} is not an engine. Choose one of {', '.join(ENGINES)}.")
    if t.activation_checkpointing and cfg.jvp != "split":
        raise ValueError(
            f"trainer.activation_checkpointing=true with jvp={cfg.jvp} would keep what it is to compute again; "
            "set jvp=split."
        )
    if t.compile not in CHOICES:
        raise ValueError(f"trainer.compile={t.compile}; expected true, false or auto.")
    if t.precision not in PRECISIONS:
        raise ValueError(
            f"trainer.precision={t.precision} is not supported; expected {' or '.join(PRECISIONS)}. Weights, times and "
            "losses stay in float32, and float16 is too narrow for the derivatives."
        )
    if cfg.jvp == "finite_difference" and t.precision != "32-true":
        raise ValueError(
            f"jvp=finite_difference with trainer.precision={t.precision}: the difference of two near values would be "
            "rounding. Set trainer.precision=32-true, or jvp=dual or split."
        )
    if t.reshard and t.strategy != "fsdp":
        raise ValueError("trainer.reshard=true has an effect under trainer=fsdp alone; leave it out.")


def check_evaluation(cfg: DictConfig) -> None:
    """Raise ValueError for steps, samplers or numbers of samples that the evaluation of a run cannot do."""
    e = cfg.evaluation
    samplers = {int(nfe): name for nfe, name in (e.samplers or {}).items()}
    _at_least(2, {"evaluation.num_samples": e.num_samples})
    _at_least(1, {"evaluation.batch_size": e.batch_size})
    _at_least(0, {f"evaluation.{key}": e[key] for key in ("every", "preview_every")})
    for key in ("nfe", "every_nfe"):
        if e.get(key) is not None and not e[key]:
            raise ValueError(f"evaluation.{key} is empty; expected at least one number of steps, e.g. [1,2,4,50].")
    for nfe in [*e.nfe, *(e.get("every_nfe") or ())]:
        check_steps(nfe, choose_sampler(nfe, segment_names(cfg), samplers))


def check_num_samples(e: DictConfig, judge: Judge, prefix: str = "evaluation.") -> None:
    """Raise ValueError for fewer samples than the judge can score, by the name of the setting after `prefix`.

    Also where nothing is judged, and nothing but a score was asked for.
    """
    _at_least(judge.fewest, {f"{prefix}num_samples": e.num_samples})
    if e.every:
        _at_least(judge.fewest, {f"{prefix}every_num_samples": e.every_num_samples})


def _at_least(low: int, settings: dict[str, float]) -> None:
    for key, value in settings.items():
        if not low <= value < float("inf"):  # nor NaN
            finite = "" if value < low else "a finite number, "
            raise ValueError(f"{key}={value}; expected {finite}{low} or more.")
