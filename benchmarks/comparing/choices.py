"""What the tuning chose, and what the compared runs say."""

import math
import statistics
from typing import Any

from comparing.jobs import failure, result
from comparing.plan import Job, Plan
from comparing.rows import Run, paired


def choose(plan: Plan, name: str, jobs: list[Job]) -> dict[str, Any]:
    """The candidates of a method with their scores, and which is chosen (None: all failed)."""
    tried: list[dict[str, Any]] = []
    for job in jobs:
        found, why = result(job), failure(job)
        values = found["student"] if found else {}
        score = statistics.geometric_mean(values.values()) if values and not why else None
        tried.append(
            {
                "overrides": plan.methods[name].candidates[job.candidate],
                "score": score,
                "nfe": values,
                "steps": job.steps,
                "chosen": False,
                **({"failed": why} if why else {}),
            }
        )
    scores = [math.inf if t["score"] is None else t["score"] for t in tried]
    chosen = scores.index(min(scores)) if min(scores) < math.inf else None
    if chosen is not None:
        tried[chosen]["chosen"] = True
    return {"chosen": chosen, "candidates": tried}


def told(tuning: dict[str, Any]) -> str:
    """One line about a method's tuning."""
    parts = []
    for tried in tuning["candidates"]:
        score = "failed" if tried["score"] is None else f"{tried['score']:.4f}"
        parts.append(f"{' '.join(tried['overrides']) or 'as it is'} {score}{' (chosen)' if tried['chosen'] else ''}")
    return "; ".join(parts)


def protocol(plan: Plan) -> str:
    """How the methods were tuned."""
    number = len(next(iter(plan.methods.values())).candidates)
    return (
        f"Each method was given {number} candidate{'s' if number > 1 else ''}, trained at "
        f"{plan.tuning.share_of_budget:g} of the budget of {plan.budget:.3g} forward-equivalents with seed "
        f"{plan.tuning.seed}, which is not compared. Score: geometric mean of the metric over the NFEs; the best "
        "(bold) was trained at the whole budget over the seeds of the table."
    )


def beaten(reference: str, runs: dict[str, dict[int, Run]]) -> list[dict[str, Any]]:
    """Each row's paired difference to the reference row, by NFE."""
    if reference not in runs:
        return []
    own = runs[reference]
    nfes = list(next(iter(own.values())).results["student"])
    return [
        {"name": name, "minus": reference, "nfe": {nfe: paired(found, own, nfe) for nfe in nfes}}
        for name, found in runs.items()
        if name != reference and set(found) & set(own)
    ]


def sentences(against: list[dict[str, Any]], titles: dict[str, str]) -> list[str]:
    """Where a row beats the reference row, by the differences of `beaten`."""
    found = []
    for entry in against:
        better, reference = (titles.get(entry[key], entry[key]) for key in ("name", "minus"))
        for nfe, gap in entry["nfe"].items():
            if gap["mean"] < 0:
                sure = "beyond" if -gap["mean"] > 2 * gap["sem"] and len(gap["seeds"]) > 1 else "not beyond"
                found.append(
                    f"{better} beats {reference} at NFE {nfe}: {gap['mean']:+.4f} ± {gap['sem']:.4f}, paired over "
                    f"seeds {', '.join(map(str, gap['seeds']))}; {sure} two standard errors."
                )
    if against and not found:
        found = [f"Nothing beats {titles.get(against[0]['minus'], against[0]['minus'])} at any NFE."]
    return found


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """Which runs of the table failed, and why."""
    return [
        f"{row.get('title') or row['name']}, seed {seed}, failed and is not in its mean: {why}"
        for row in rows
        for seed, why in row.get("failed", {}).items()
    ]
