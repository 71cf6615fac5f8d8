"""The expected curves of a run's experiment, and whether its settings are those that they were measured with."""

from typing import Any

from omegaconf import DictConfig

from decm.checkpoints.first_process import is_first
from decm.runs.folders import comparable_settings, other_settings
from decm.settings.composition import add_contents, compose, conf_dir, plain
from decm.training.callbacks.evaluation.expected import Curve, Expected
from decm.training.callbacks.evaluation.previews import Evaluate

# What a run may differ in besides, and still be compared with the curves: it changes no figure beyond rounding and the
# noise of seeds.
MAY_DIFFER = ("name", "seed", "accumulate", "jvp", "fused", "snapshots")
MAY_DIFFER_OF_EVALUATION = ("every", "every_nfe", "preview_every", "nfe", "num_samples", "batch_size")


def expected_curves(cfg: DictConfig) -> list[Curve]:
    """The curves of a configuration, none where they are of no experiment. Raises ValueError for a malformed one."""
    section = cfg.expected
    if section.experiment is None:
        return []
    if not (conf_dir() / "experiment" / f"{section.experiment}.yaml").is_file():
        raise ValueError(f"expected.experiment={section.experiment}; expected the name of an experiment, or null.")
    if not section.curves:
        raise ValueError("expected.curves is empty; expected a metric at least, or expected.experiment=null.")
    return [Curve(str(name), list(c.at), list(c.value), c.tolerance) for name, c in section.curves.items()]


def build_expected(cfg: DictConfig, settings: dict[str, Any], evaluate: Evaluate) -> list[Expected]:
    """The callback that compares a run with its expected curves; none, with a line that says why, if it cannot."""
    curves = expected_curves(cfg)
    if not curves:
        return []
    found = deviations(cfg.expected.experiment, settings)
    if not cfg.evaluation.every:
        found.append("evaluation.every is 0")
    if not found:
        return [Expected(evaluate, curves)]
    if is_first():
        more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
        print(f"expected curve: not compared ({found[0]}{more})", flush=True)
    return []


def deviations(experiment: str, settings: dict[str, Any]) -> list[str]:
    """In which settings that matter to its figures a run is not what `experiment` says."""
    default = compose("train", [f"experiment={experiment}"])
    default.runs = settings["runs"]
    add_contents(default)
    return other_settings(plain(default), settings, relevant)


def relevant(settings: dict[str, Any]) -> dict[str, Any]:
    """What of a plain configuration the figures in the loop depend on."""
    kept = {key: value for key, value in comparable_settings(settings).items() if key not in MAY_DIFFER}
    kept["evaluation"] = {k: v for k, v in kept["evaluation"].items() if k not in MAY_DIFFER_OF_EVALUATION}
    return kept
