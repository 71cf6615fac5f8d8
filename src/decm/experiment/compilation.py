"""`trainer.compile`: whether the blocks of student and teacher are compiled."""

import os
import shutil

from omegaconf import DictConfig
from torch import nn

from decm.checkpoints.first_process import is_first
from decm.evaluation.devices import pick_device
from decm.experiment.dry_run import operations
from decm.networks.regions import regions

AUTO = "auto"
CHOICES = (True, False, AUTO)
# Operations of a run from which on it repays the compilation, which takes about a minute and saves about a third of the
# time: five minutes at 40 GFLOP/s, which a CPU's core does, and at 100 TFLOP/s. Reckoned, not measured.
REPAYING = {"cpu": 1.2e13, "cuda": 3e16}
COMPILERS = ("c++", "g++", "clang++")


def is_compiled(cfg: DictConfig, student: nn.Module) -> bool:
    """Whether the blocks of this run's networks are compiled; `auto` decides by its operations, and says so in a line.

    The same settings on the same machine decide the same, so that a run that was stopped goes on as it began.
    """
    asked = cfg.trainer.compile
    if asked != AUTO:
        return bool(asked)
    if not regions(student):
        return False
    kind = pick_device(cfg.trainer.accelerator).split(":")[0]
    count, least = operations(cfg, student), REPAYING.get(kind)
    if least is None:
        compiled, why = False, f"its blocks are not compiled on {kind}"
    elif count < least:
        compiled, why = False, f"its {count:.2g} operations would not repay a minute (from {least:.2g} on)"
    elif not any(map(shutil.which, (os.environ.get("CXX", COMPILERS[0]), *COMPILERS))):
        compiled, why = False, "there is no C++ compiler (c++, g++, clang++, or CXX)"
    else:
        compiled, why = True, f"its {count:.2g} operations repay a minute (from {least:.2g} on)"
    if is_first():
        print(f"{cfg.name}: trainer.compile=auto: {'compiled' if compiled else 'not compiled'}, {why}.", flush=True)
    return compiled
