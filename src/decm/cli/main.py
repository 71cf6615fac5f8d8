"""The command line: finds the verb, hands the rest to Hydra, and turns a user's mistake into one sentence."""

import os
import re
import sys
import warnings
from importlib import import_module
from itertools import pairwise
from typing import Any

from decm.runs.exits import CONFIG_ERROR, FAILED, INTERRUPTED, PREEMPTED, JobError, stopped
from decm.runs.streams import prepare_streams
from decm.settings.task import fail, in_plain_words, leave_reader, run_task
from decm.settings.words import FOLDER_FLAGS, absolute_folders, check_groups, quote_paths

VERBS = {
    "train": "train an experiment: teacher, distillation, evaluation, table",
    "evaluate": "score a checkpoint at several NFEs",
    "sample": "draw samples from a checkpoint into a picture",
    "data": "make a data set of a folder of images, a folder a class",
    "latents": "encode, import, check or make up a set of latents",
    "consolidate": "one safetensors file of a checkpoint's averaged weights",
    "export": "a folder, torch.export program or ONNX graph of a run's generator",
    "reference": "build the statistics that samples are compared with",
    "report": "the page of a run, several runs beside each other, or the table of a sweep",
    "runs": "what runs there are: state, figures, size",
    "doctor": "versions, devices, disk, W&B, and which files are missing",
    "clean": "remove old checkpoints and W&B folders of finished runs",
}
MODULES = {"runs": "list_runs"}  # where a verb's `task` is, unless in cli/<verb>.py
ACTIONS = {"latents": ("encode", "import", "check", "synth")}  # the word after the verb
PLACES = set[str]()  # where the jobs of this command have written
FOLDERS = {"report": "path"}  # verbs whose first word may be a folder, and the setting that it is
# Hydra's flags that are followed by a word of their own.
FLAGS_WITH_VALUE = (
    "-c",
    "--cfg",
    "-p",
    "--package",
    "-cp",
    "--config-path",
    "-cn",
    "--config-name",
    "-cd",
    "--config-dir",
    "-i",
    "--info",
    "--experimental-rerun",
)
IGNORED_WARNINGS = (  # warnings of libraries about themselves, which a user can do nothing about
    ".*torch.jit.script. is deprecated",
    ".isinstance.treespec, LeafSpec.",
    "You have overridden .transfer_batch_to_device",
    ".*does not have many workers",
    ".*Checkpoint directory .* exists and is not empty",
    "Found .* module.s. in eval mode",
    "(Possibly c|C)orrupt EXIF data",
    "Tag data larger than file",
    "Image size .* exceeds limit",  # name no file
)


def usage() -> str:
    """The text of `decm --help`."""
    verbs = "\n".join(f"  {name:<12} {what}" for name, what in VERBS.items())
    return (
        "decm distills a flow-matching teacher into a generator that needs 1, 2, 4 or 50 steps.\n\n"
        f"Usage: decm <verb> key=value ...\n\n{verbs}\n\n"
        "Examples:\n"
        "  decm train experiment=decm_digits\n"
        "  decm train experiment=decm_digits method=fm_cd seed=1\n"
        "  decm train -m experiment=decm_digits method=fm,cd,fm_cd,fm_n2n,decm    (a sweep; resume=auto goes on)\n"
        "  decm train sweep=n2n experiment=decm_digits    (of conf/sweep; launcher=joblib|slurm: several at once)\n"
        "  decm report runs/decm_digits/multirun/<time>\n"
        "  decm evaluate checkpoint=runs/decm_digits/<time> nfe='[1,2,4,50]'\n"
        "  decm sample checkpoint=runs/decm_digits/<time> nfe=4 labels='[0,1,2]' out=grid.png\n"
        "  decm report path=runs/decm_digits/<time>\n"
        "  decm latents check path=data/imagenet256\n"
        "  decm reference images=<folder> size=256 weights=<inception file> out=reference.npz\n\n"
        "decm <verb> --help lists the settings of a verb, and --cfg job prints the composed configuration.\n"
        "Exit codes: 0 done, 1 failed, 2 a mistake in the settings, 75 stopped by a signal or a stop file and saved:\n"
        "start again with resume=auto, 130 interrupted."
    )


def find_verb(argv: list[str]) -> str:
    """The verb in argv[1], which is taken out; a process that a launcher started inherits it by DECM_VERB."""
    if len(argv) > 1 and argv[1] in VERBS:
        os.environ["DECM_VERB"] = argv.pop(1)
    elif not ("LOCAL_RANK" in os.environ and "DECM_VERB" in os.environ):
        if len(argv) < 2 or argv[1] in ("-h", "--help", "help"):
            print(usage())
            raise SystemExit(0)
        if argv[1] == "--version":
            from decm import __version__

            print(f"decm {__version__}")
            raise SystemExit(0)
        fail(f"unknown verb {argv[1]!r}; expected one of {', '.join(VERBS)}. See decm --help.", CONFIG_ERROR)
    return os.environ["DECM_VERB"]


def find_action(verb: str, argv: list[str]) -> None:
    """Turn `decm latents check key=value` into `action=check key=value`, and a folder into `path=...`, in place."""
    if len(argv) < 2 or re.match(r"[+~]*[\w.@]+=|[-+~]|$", argv[1]) or (verb not in FOLDERS and "=" in argv[1]):
        return
    if verb in ACTIONS:
        if argv[1] not in ACTIONS[verb]:
            fail(f"unknown `decm {verb} {argv[1]}`; expected one of {', '.join(ACTIONS[verb])}.", CONFIG_ERROR)
        argv[1] = f"action={argv[1]}"
    elif verb in FOLDERS:
        argv[1] = f"{FOLDERS[verb]}={argv[1]}"


def check_words(verb: str, argv: list[str]) -> None:
    """Leave with the first word that is neither `key=value` nor a flag, nor what a flag takes."""
    for before, word in pairwise(argv):
        if not ("=" in word or word.startswith(("-", "~")) or before in FLAGS_WITH_VALUE):
            fail(f"expected key=value, found {word!r}. See decm {verb} --help.", CONFIG_ERROR)


def overrides_first(argv: list[str]) -> list[str]:
    """The command line with its flags last: argparse takes overrides in one piece only, but `-m` may stand anywhere."""
    overrides, flags = list[str](), list[str]()
    for before, word in pairwise(argv):
        own = word.startswith(("~", "+")) or ("=" in word and word[0] != "-")
        (overrides if own and before not in FOLDER_FLAGS else flags).append(word)
    return [argv[0], *overrides, *flags]


def as_hydra_takes(verb: str, argv: list[str]) -> list[str]:
    """The command line in Hydra's grammar and order; leaves with a word that is not taken."""
    find_action(verb, argv)
    check_words(verb, argv)
    try:
        if verb == "train":
            check_groups(argv[1:])
        return overrides_first([argv[0], *quote_paths(verb, absolute_folders(argv[1:]))])
    except ValueError as error:
        fail(str(error), CONFIG_ERROR)
        raise


def main() -> None:
    """The entry point `decm`."""
    prepare_streams()
    try:
        try:
            command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        leave_reader()
        raise
    except KeyboardInterrupt:
        fail(stopped(), INTERRUPTED)


def run_verb(verb: str, cfg: Any) -> Any:
    """The verb's task with a composed configuration, alone or as a job of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        fail(in_plain_words(str(error)), CONFIG_ERROR)
    if missing:
        fail(f"{', '.join(missing)} must be set, as {missing[0]}=... See decm {verb} --help.", CONFIG_ERROR)
    in_sweep, module = HydraConfig.get().mode == RunMode.MULTIRUN, f"decm.cli.{MODULES.get(verb, verb)}"
    if in_sweep or "DECM_JOB" in os.environ:
        import_module(module)  # before the settings are checked: it keeps what a job fails with

    def task(cfg: Any) -> Any:
        if in_sweep and verb not in ("train", "evaluate") and cfg.get("out") is not None:
            check_place(str(cfg.out))
        return import_module(module).task(cfg)

    return run_task(task, cfg, in_sweep)


def check_place(out: str) -> None:
    """Raise ValueError where an earlier job of this command has written to the same place."""
    if out in PLACES:
        raise ValueError(
            f"out={out} is where an earlier job of this command has written. Give each job a command of its own."
        )
    PLACES.add(out)


def command() -> None:
    """One command: the verb, its words, Hydra, and what it ends with."""
    verb = find_verb(sys.argv)
    PLACES.clear()
    if {"-h", "--help"} & set(sys.argv[1:]):
        from decm.cli.help import verb_help

        print(verb_help(verb, VERBS[verb]))
        return
    sys.argv[:] = as_hydra_takes(verb, sys.argv)
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from decm.settings.composition import conf_dir
    from decm.settings.schema import register

    register()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # hand exceptions through, for our own words
    started = False

    def job(cfg: DictConfig) -> Any:
        nonlocal started
        started = True
        return run_verb(verb, cfg)

    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=verb)(job)()
    except JobError as error:
        if verb == "train" and error.code not in (PREEMPTED, INTERRUPTED):
            error = import_module("decm.sweeps.sweep").close(error)
        fail(error.message, error.code)
    except Exception as error:
        if type(error).__module__ == "submitit.core.utils":  # the job's process left no result
            fail(str(error), FAILED)
        if not started and isinstance(error, (YAMLError, ValueError)):  # a file of --config-dir, teacher=3
            fail(" ".join(str(error).split()), CONFIG_ERROR)
        if started or not isinstance(error, (HydraException, OmegaConfBaseException)):
            raise
        reason = f": {error.__cause__}" if error.__cause__ is not None else ""
        fail(f"{in_plain_words(f'{error}{reason}')}\nSee decm {verb} --help.", CONFIG_ERROR)
