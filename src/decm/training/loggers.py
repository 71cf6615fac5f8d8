"""Loggers: metrics.csv always, W&B online only where the user is logged in, offline otherwise, never a prompt."""

import contextlib
import os
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from decm.training.csv_logger import MetricsCSV
from decm.training.wandb_mode import wandb_mode

ID_FILE, DATA_DIR = "wandb_id", "WANDB_DATA_DIR"
PROJECT = "decm"  # where neither a setting nor WANDB_PROJECT names one
LONGEST_TAG = 64  # characters, of W&B's tags
INIT_TIMEOUT = 20.0  # seconds for W&B to begin a run at a server that has answered
MAPS = ("0_1", "t_1", "0_t", "v")  # of evaluation/points.py


def build_loggers(settings: dict[str, Any], folder: Path, group: str | None) -> list[Any]:
    """The loggers of a run of these plain settings. Raises ValueError for an unknown kind."""
    os.environ.setdefault("WANDB_SILENT", "true")
    csv, chosen = MetricsCSV(folder), settings["logger"]
    if chosen["kind"] == "csv":
        return [csv]
    if chosen["kind"] != "wandb":
        raise ValueError(f"logger.kind={chosen['kind']!r} is unknown; expected wandb or csv.")
    first = getattr(rank_zero_only, "rank", 0) == 0  # W&B's logger of the other ranks is a dummy
    mode = wandb_mode(chosen["mode"]) if first else "offline"
    if mode == "disabled":
        return [csv]
    id_file = folder / ID_FILE
    with contextlib.suppress(FileExistsError), id_file.open("x", encoding="utf-8") as file:
        file.write(uuid.uuid4().hex[:12])
    return [csv, open_wandb(settings, folder, group, mode)]


def open_wandb(settings: dict[str, Any], folder: Path, group: str | None, mode: str) -> Any:
    """W&B's logger of a run, begun; offline, with one line, where W&B refuses it online.

    Where a setting is null, W&B's own variable of the environment holds. Raises ValueError where W&B refuses it offline
    too: the settings are wrong.
    """
    from lightning.pytorch.loggers import WandbLogger
    from wandb import Settings, teardown
    from wandb.errors import Error

    chosen = settings["logger"]
    logger = WandbLogger(
        name=f"{settings['name']}/{folder.name}",
        mode=mode,
        id=(folder / ID_FILE).read_text(encoding="utf-8"),
        save_dir=folder_of_wandb(chosen) or folder,
        project=project_of_wandb(chosen),
        entity=chosen["entity"],
        group=chosen["group"] or group,
        config=described(settings),
        resume="allow" if mode == "online" else None,
        tags=[settings["name"][:LONGEST_TAG], *segments(settings)],
        settings=Settings(init_timeout=INIT_TIMEOUT),
    )
    try:
        run = logger.experiment
    except (Error, ValueError) as error:
        why = refusal(error)
        if mode != "online":
            raise ValueError(f"W&B refuses this run: {why}. Mend the logger's settings, or set logger=csv.") from error
        print(f"W&B: refused online ({why}), so this run is kept offline; `wandb sync` uploads it.", flush=True)
        teardown()  # W&B holds the run's id
        return open_wandb(settings, folder, group, "offline")
    if hasattr(run, "define_metric"):  # a dummy on all ranks but the first
        for name, summary in summaries(settings).items():
            run.define_metric(name, step_metric="trainer/global_step", step_sync=True, summary=summary)
    return logger


def folder_of_wandb(chosen: Mapping[str, Any]) -> str | None:
    """Where W&B's files go, by its settings or its variable; None: into the run's folder."""
    return chosen.get("dir") or os.environ.get("WANDB_DIR") or None


def project_of_wandb(chosen: dict[str, Any]) -> str:
    """The project, by the settings or W&B's variable."""
    return chosen["project"] or os.environ.get("WANDB_PROJECT") or PROJECT


def check_wandb(settings: dict[str, Any]) -> None:
    """Raise ValueError for a project, an entity, a group or a variable of the environment that W&B refuses."""
    from wandb import Settings
    from wandb.errors import Error

    chosen = settings["logger"]
    try:
        Settings(project=project_of_wandb(chosen), entity=chosen["entity"], run_group=chosen["group"])
    except (Error, ValueError) as error:
        raise ValueError(f"logger.project, entity or group: W&B refuses this: {refusal(error)}") from error
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        try:
            Settings().update_from_env_vars({name: os.environ[name]})
        except (Error, ValueError) as error:
            raise ValueError(f"The variable {name}: W&B refuses its value: {refusal(error)}") from error


def refusal(error: Exception) -> str:
    """What W&B says against a value, without the value itself, which may be a secret."""
    said = [one["msg"] for one in error.errors()] if hasattr(error, "errors") else [str(error)]
    return "; ".join(" ".join(one.split()) for one in said)


def segments(settings: dict[str, Any]) -> list[str]:
    """The names of the segments that a run is trained on."""
    return sorted(settings.get("method") or {})


def summaries(settings: dict[str, Any]) -> dict[str, str]:
    """How W&B sums up the history of a run that has not ended, by name: errors by the lowest; all else by the last.

    Each name in full: of a pattern and Lightning's own `*` W&B applies either.
    """
    errors = [f"fd/{nfe}" for nfe in settings["evaluation"]["nfe"]] + [f"map_error/{name}" for name in MAPS]
    return {**dict.fromkeys(errors, "min"), "speed/samples_per_s": "mean"}


def described(settings: dict[str, Any]) -> dict[str, Any]:
    """The configuration as W&B's tables filter and group by it: segments in one word."""
    return {**settings, "experiment": settings["name"], "segments": "+".join(segments(settings))}


def log_table(loggers: list[Any], name: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A table in W&B, where there is W&B; cells that are pictures (of Pillow) are shown as such.

    Its pictures wait in the run folder, not in the user's home, until they are uploaded.
    """
    for logger in loggers:
        if hasattr(logger, "log_image") and rows:
            import wandb

            run = logger.experiment
            given = os.environ.get(DATA_DIR)
            os.environ[DATA_DIR] = given or str(Path(run.dir).parents[1])
            try:
                data = [[wandb.Image(cell) if hasattr(cell, "getpixel") else cell for cell in row] for row in rows]
                run.log({name: wandb.Table(columns=[*columns], data=data)})
            finally:
                if given is None:
                    del os.environ[DATA_DIR]


def summarize(loggers: list[Any], figures: dict[str, Any], pictures: dict[str, Path]) -> None:
    """Put the final figures and pictures of a run into W&B, where there is W&B.

    The final figures take the place of the loop's lowest ones, which are of fewer samples.
    """
    for logger in loggers:
        if hasattr(logger, "log_image"):
            logger.experiment.summary.update(figures)
            for name, path in pictures.items():
                logger.log_image(name, [str(path)])


def add_to_summary(settings: dict[str, Any], folder: Path, figures: dict[str, Any]) -> None:
    """Put figures into the W&B run of a run folder, after it has ended; nothing where it was not logged with W&B."""
    if not (folder / ID_FILE).is_file() or find_spec("wandb") is None:
        return
    from wandb.errors import Error

    loggers = list[Any]()
    try:
        loggers = build_loggers(settings, folder, None)
        summarize(loggers, figures, {})
    except (Error, ValueError) as error:  # the figures are in files already
        print(f"W&B: the figures were not added to the run's summary ({error}).", flush=True)
    finally:
        finish(loggers)


def finish(loggers: list[Any]) -> None:
    """End the W&B run, so that another one can start in this process."""
    if any(hasattr(logger, "log_image") for logger in loggers):
        import wandb

        wandb.finish()
