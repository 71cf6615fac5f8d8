"""The W&B workspace of the project, and a report for readers, as code. Building them is offline; saving needs a login.

`python -m decm.report.dashboards <entity> [<project>]`, or `make wandb-workspace ENTITY=...`.
"""

import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from decm.evaluation.titles import PER_NFE
from decm.settings.composition import conf_dir

NFES = (1, 2, 4, 50)
STEP = "trainer/global_step"
# What W&B measures by itself, of the first GPU and of the machine.
HARDWARE = {
    "GPU utilization, %": ["system/gpu.0.gpu"],
    "GPU memory, bytes": ["system/gpu.0.memoryAllocatedBytes"],
    "GPU power, W": ["system/gpu.0.powerWatts"],
    "CPU, %": ["system/cpu"],
    "memory, MB": ["system/proc.memory.rssMB"],
}
COLUMNS = ("segments", "seed", "max_steps", "batch_size", "optimizer.lr", "teacher.kind")  # of the configuration


def segments_of_methods() -> list[str]:
    """The names of the segments of all methods of conf/method, in alphabetical order."""
    texts = [path.read_text(encoding="utf-8") for path in (conf_dir() / "method").glob("*.yaml")]
    return sorted({name for text in texts for name in re.findall(r"@method\.(\w+)", text)})


def line(title: str, names: Sequence[str], **options: Any) -> Any:
    """A curve over optimizer steps."""
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(title=title, x=STEP, y=[wr.Metric(name) for name in names], **options)


def quality_panels(nfes: Sequence[int]) -> list[Any]:
    """The metric at each number of steps: at the end, against its cost, beside each other, and over the training."""
    import wandb_workspaces.reports.v2 as wr

    names = [f"fd/{nfe}" for nfe in nfes]
    columns = [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(name), log=True) for name in names]
    first = wr.SummaryMetric(names[0])
    return [
        wr.BarPlot(title="distance at each NFE", metrics=[wr.Metric(name) for name in names], orientation="v"),
        wr.ParallelCoordinatesPlot(title="distance from few to many steps", columns=columns),
        wr.ScatterPlot(title="distance against cost", x=wr.SummaryMetric("forward_equivalents"), y=first, log_y=True),
        line("distance in the loop", names, log_y=True),
        wr.BarPlot(title="of the teacher", metrics=[wr.Metric(f"teacher_{name}") for name in names], orientation="v"),
        *(
            wr.BarPlot(title=key, metrics=[wr.Metric(f"{key}/{nfe}") for nfe in nfes], orientation="v")
            for key in PER_NFE
        ),
    ]


def sections(nfes: Sequence[int] = NFES, segments: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """The panels of the workspace by section, for the segments of all methods where none are named."""
    import wandb_workspaces.reports.v2 as wr

    segments = segments_of_methods() if segments is None else segments
    losses, tangents = ([f"{kind}/{name}" for name in segments] for kind in ("loss", "tangent"))
    smooth = {"smoothing_type": "exponentialTimeWeighted", "smoothing_factor": 0.9, "smoothing_show_original": True}
    return {
        "quality against NFE": quality_panels(nfes),
        "samples": [
            wr.MediaBrowser(title="the same seeds at each NFE", media_keys=["samples", "comparison"]),
            wr.MediaBrowser(title="many samples", media_keys=[f"samples_nfe{nfe}" for nfe in nfes]),
            wr.WeavePanelSummaryTable(table_name="samples_by_seed"),
        ],
        "loss": [line("all segments", losses, log_y=True, **smooth), *(line(n, [n], log_y=True) for n in losses)],
        "tangents": [
            line("all segments", tangents, log_y=True, **smooth),
            *(line(name, [name], log_y=True) for name in tangents),
            line("gradient norm", ["grad_norm"], log_y=True, **smooth),
            line("skipped steps", ["guard/skipped"]),
        ],
        "speed": [line("samples a second", ["speed/samples_per_s"])],
        "hardware": [
            wr.LinePlot(title=title, x="_runtime", y=[wr.Metric(name) for name in names])
            for title, names in HARDWARE.items()
        ],
    }


def workspace(entity: str, project: str = "decm") -> Any:
    """A saved view of the project: one section a question, quality and samples open."""
    import wandb_workspaces.workspaces as ws

    open_first = ("quality against NFE", "samples", "loss")
    return ws.Workspace(
        entity=entity,
        project=project,
        name="decm",
        sections=[
            ws.Section(name=name, panels=panels, is_open=name in open_first) for name, panels in sections().items()
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP),
        runset_settings=ws.RunsetSettings(order=[ws.Ordering(ws.Metric("CreatedTimestamp"), ascending=False)]),
    )


def report(entity: str, project: str = "decm") -> Any:
    """A page for readers: the question, the figures by method, the samples, the training, and how to do it again."""
    import wandb_workspaces.reports.v2 as wr

    def grid(panels: list[Any]) -> Any:
        columns = [f"config:{name}.value" for name in COLUMNS]
        runs = wr.Runset(entity=entity, project=project, groupby=["segments"], visible_columns=columns)
        return wr.PanelGrid(runsets=[runs], panels=panels)

    made = sections()
    return wr.Report(
        entity=entity,
        project=project,
        title="Few-step generation, by method",
        description="Which law on which segment brings what at 1, 2, 4 and 50 network steps.",
        blocks=[
            wr.TableOfContents(),
            wr.H1("Quality at each number of steps"),
            wr.P(
                "Runs are grouped by the segments that they were trained on; lower is better. Finished runs show the "
                "distance of the final evaluation, others the lowest in the loop, of fewer samples."
            ),
            grid(made["quality against NFE"]),
            wr.H1("Samples"),
            wr.P("The same noise and label in every column, under the teacher's most steps."),
            grid(made["samples"]),
            wr.H1("Training"),
            wr.P("Losses of different segments do not compare with each other; each one does over time and over runs."),
            grid([*made["loss"][:1], *made["tangents"][:1], *made["speed"]]),
            wr.H1("Do it again"),
            wr.MarkdownBlock("```sh\nmake train ARGS='-m method=fm,cd,fm_cd,fm_n2n,decm seed=0,1,2'\n```"),
        ],
        width="fluid",
    )


def refuse(sentence: str) -> NoReturn:
    """Leave as decm does at a user's mistake."""
    print(sentence, file=sys.stderr)
    raise SystemExit(2)


def main(arguments: Sequence[str]) -> None:
    """Save workspace and report under an entity that this machine is logged in for."""
    if not 1 <= len(arguments) <= 2 or not arguments[0]:
        refuse("Usage: make wandb-workspace ENTITY=<your W&B user or team> [PROJECT=decm]")
    from wandb.errors import Error

    from decm.training.wandb_mode import obstacle

    why = obstacle()
    if why is not None:
        refuse(f"W&B: {why}. With a network, log in by `wandb login` as one who may write to {arguments[0]}.")
    try:
        for made in (workspace(*arguments), report(*arguments)):
            print(made.save().url)
    except (Error, ValueError) as error:
        refuse(f"W&B refused ({error}). Log in with `wandb login` as one who may write to {arguments[0]}.")


if __name__ == "__main__":
    main(sys.argv[1:])
