"""What can be told from the settings alone, before a folder is made or a teacher trained."""

from omegaconf import DictConfig

from decm.cli.build import segment_names
from decm.data.loader import micro_batch_size
from decm.flow.solvers import check_steps, choose_sampler


def check_settings(cfg: DictConfig) -> None:
    """Raise ValueError for a setting that would otherwise be found wrong after the training, or never."""
    e, samplers = cfg.evaluation, {int(nfe): name for nfe, name in (cfg.evaluation.samplers or {}).items()}
    at_least = {
        "max_steps": (cfg.max_steps, 1),
        "accumulate": (cfg.accumulate, 1),
        "trainer.checkpoint_every": (cfg.trainer.checkpoint_every, 1),
        "trainer.log_every": (cfg.trainer.log_every, 1),
        "evaluation.num_samples": (e.num_samples, 2),
        "evaluation.batch_size": (e.batch_size, 1),
    }
    for key, (value, low) in at_least.items():
        if value < low:
            raise ValueError(f"{key}={value}; expected {low} or more.")
    if not 0 <= cfg.label_drop <= 1:
        raise ValueError(f"label_drop={cfg.label_drop}; expected a share between 0 and 1.")
    if not e.nfe:
        raise ValueError("evaluation.nfe is empty; expected at least one number of steps, e.g. [1,2,4,50].")
    for nfe in e.nfe:
        check_steps(nfe, samplers.get(nfe) or choose_sampler(nfe, segment_names(cfg)))
    micro_batch_size(cfg.batch_size, 1, cfg.accumulate)
