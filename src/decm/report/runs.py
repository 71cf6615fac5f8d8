"""The pages of runs: what report/ needs to know of a folder, and where the page is written."""

import errno
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decm.checkpoints.durable import check_place, write_text
from decm.runs.folders import RESULTS, read_config, read_results
from decm.runs.run import Run
from decm.runs.state import state_of
from decm.settings.composition import compose, conf_dir, plain


def read_run(folder: Path) -> Run:
    """A run folder, with the defaults of its experiment. Raises ValueError if it is none."""
    config = read_config(folder)
    if config is None:
        raise ValueError(
            f"{folder} is not a run folder: it has no config.yaml. Expected runs/<experiment>/<time>, or "
            "the folder of a sweep (there is no sweep.yaml in it)."
        )
    results = read_results(folder) if (folder / RESULTS).is_file() else None
    return Run(folder, config, defaults_of(config), results, state_of(folder), parameters_of(config))


def defaults_of(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run's experiment as it is now; {} where there is none of that name."""
    name = str(config.get("name"))
    if not (conf_dir() / "experiment" / f"{name}.yaml").is_file():
        return {}
    return plain(compose("train", [f"experiment={name}"]))


def parameters_of(config: dict[str, Any]) -> int | None:
    """The parameters of a run's network, counted without memory for them; None of one that cannot be built here."""
    import torch

    from decm.generator.networks import build_network

    try:
        with torch.device("meta"):
            network = build_network(config["network"], "config.yaml")
    except (KeyError, ValueError, ArithmeticError, AttributeError):
        return None
    return sum(parameter.numel() for parameter in network.parameters())


def write_page(folder: Path, out: Path | None = None) -> Path:
    """Draw the page of a run folder: report.html in it, or the file `out`."""
    from decm.report.page import PAGE, page

    target, text = out or folder / PAGE, page(read_run(folder))
    try:
        write_text(target, text)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise ValueError(f"{target} cannot be written ({error.strerror}). Set out=<another file>.html.") from error
    return target


def try_page(folder: Path) -> None:
    """Draw the page at the end of a run, whose results are safe already: a failure is reported only."""
    try:
        print(f"{'page':<10} {write_page(folder)}", flush=True)
    except Exception as error:  # whatever a page trips over, the run is done
        print(
            f"The page of {folder} could not be drawn ({type(error).__name__}: {error}). The results are complete; "
            f"{shlex.join(['decm', 'report', f'path={folder}'])} tries again.",
            flush=True,
        )


def report_runs(paths: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """The page of one run, or the comparison of several in `out`; the file that was written."""
    folders = [Path(path) for path in paths]
    if len(folders) == 1 and out is None:
        return write_page(folders[0])
    from decm.report.compare import compare

    target = Path(out or "compare.html")
    if target.suffix != ".html" or target.is_dir():
        raise ValueError(f"out={target} is no page; expected a file that ends in .html.")
    check_place(target)
    runs = [read_run(folder) for folder in folders]
    target.parent.mkdir(parents=True, exist_ok=True)
    if len(folders) == 1:
        return write_page(folders[0], target)
    write_text(target, compare(runs))
    return target
