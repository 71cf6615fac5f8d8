"""The table of a run: teacher and student at each NFE, with the floor, as Markdown and in the terminal."""

from typing import Any

from decm.evaluation.titles import PER_NFE, TITLES, judge_note

# Scores beside the metric itself, by NFE, and their digits.


def _row(name: str, values: dict[str, float], nfes: list[str], digits: int = 3) -> list[str]:
    return [name, *(f"{values[nfe]:.{digits}f}" if nfe in values else "" for nfe in nfes)]


def table_rows(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of results in the shape of results.json."""
    nfes = list(results["student"] or results["teacher"] or results["samplers"])
    rows = []
    if results["teacher"]:
        rows.append(_row("teacher", results["teacher"], nfes))
    if results["student"]:
        rows.append(_row("student", results["student"], nfes))
    if results["student"] or not results["teacher"]:
        rows.append(["sampler", *(results["samplers"].get(nfe, "") for nfe in nfes)])
    for key, digits in PER_NFE.items():
        if results.get(key):
            rows.append(_row(key, results[key], nfes, digits))
    return ["NFE", *nfes], rows


def notes(results: dict[str, Any]) -> list[str]:
    """What a reader must know to trust the table."""
    floor = results["floor"]
    lowest = "floor not computed (the reference is known by its statistics alone)"
    if "value" in floor:
        lowest = f"floor {floor['value']:.3f} (resamples of the reference against itself)"
    judged = (
        f"{TITLES.get(results['metric'], results['metric'])} of {results['num_samples']} samples to "
        f"{results['reference']}; {lowest}"
        + (f", held-out data {floor['heldout']:.3f}" if "heldout" in floor else "")
        + "; lower is better."
    )
    lines = ["Nothing was judged (evaluation=none): see the pictures."] if results["metric"] == "none" else [judged]
    if note := judge_note(results):
        lines.append(note)
    if results.get("memorized"):
        lines.append("memorized: share of samples nearer to a training image than the nearest 5% of held-out images.")
    if results.get("map_error"):
        errors = ", ".join(f"{name} {value:.4f}" for name, value in results["map_error"].items())
        lines.append(f"RMS error per dimension against the exact flow: {errors}.")
    if "ema_sigma_rel" in results:
        lines.append(f"Weights: the power-law average of sigma_rel {results['ema_sigma_rel']}, reconstructed.")
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in results["seconds"].items())
    reused = " (teacher reused)" if results.get("teacher_reused") else ""
    cost = f"; {results['forward_equivalents']:.3g} forward-equivalents" if "forward_equivalents" in results else ""
    drawn = results.get("evaluation_seed", results["seed"])
    samples = f", samples of seed {drawn}" if drawn != results["seed"] else ""
    lines.append(f"seed {results['seed']}{samples}; {seconds}{reused}{cost}.")
    return lines


def markdown(results: dict[str, Any]) -> str:
    """table.md."""
    header, rows = table_rows(results)
    lines = [f"# {results['experiment']}", "", f"| {' | '.join(header)} |", f"| --- |{' ---: |' * (len(header) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"{line}  " for line in notes(results))]) + "\n"


def show(results: dict[str, Any], paths: dict[str, str]) -> None:
    """Print the table and the paths to look at."""
    from rich.console import Console
    from rich.table import Table

    header, rows = table_rows(results)
    table = Table(title=results["experiment"])
    for k, name in enumerate(header):
        table.add_column(name, justify="left" if k == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)  # names may have brackets
    with console.capture() as printed:  # so that a closed pipe is met by print, as everywhere
        console.print(table)
    print(printed.get(), end="")
    print("\n".join([*notes(results), *(f"{name:<10} {path}" for name, path in paths.items())]))
