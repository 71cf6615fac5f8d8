"""The dashboards ask for figures that are logged, and are built without a server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from decm.report.dashboards import HARDWARE, main, report, sections, segments_of_methods, workspace
from decm.settings.composition import compose

ROOT = Path(__file__).parents[2]
SECTIONS = ["quality against NFE", "samples", "loss", "tangents", "speed", "hardware"]


def names_in(model):
    """Every name of a figure or picture that a panel asks for."""
    found = set()

    def walk(node, key=""):
        if isinstance(node, dict):
            for name, value in node.items():
                walk(value, name)
        elif isinstance(node, list):
            for value in node:
                walk(value, key)
        elif isinstance(node, str) and key in ("metrics", "mediaKeys", "xAxis", "yAxis", "accessor", "tableName"):
            found.add(node)

    walk(model)
    return found


@pytest.fixture(scope="module")
def model():
    made = workspace("someone", "project")
    return json.loads(made._to_model().model_dump_json(by_alias=True))


def test_the_workspace_has_a_section_for_each_question(model):
    found = model["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in found][: len(SECTIONS)] == SECTIONS
    assert all(section["panels"] for section in found[: len(SECTIONS)])
    assert (model["entity"], model["project"]) == ("someone", "project")


def test_panels_ask_for_the_losses_tangents_distances_and_samples(model):
    names = names_in(model)
    for segment in segments_of_methods():
        assert {f"loss/{segment}", f"tangent/{segment}"} <= names
    for nfe in (1, 2, 4, 50):
        assert any(name.endswith(f"fd/{nfe}") and "teacher" not in name for name in names)
        assert f"samples_nfe{nfe}" in names
    assert {"speed/samples_per_s", "grad_norm", "comparison", *HARDWARE["CPU, %"]} <= names


def test_other_steps_and_segments_have_panels_of_their_own():
    losses = sections(nfes=[3], segments=["mine"])["loss"]
    assert [[metric.name for metric in panel.y] for panel in losses] == [["loss/mine"], ["loss/mine"]]


def test_the_report_tells_in_words_and_panels_and_groups_by_segments():
    import wandb_workspaces.reports.v2 as wr

    made = report("someone", "project")
    grids = [block for block in made.blocks if isinstance(block, wr.PanelGrid)]
    assert len(grids) == 3
    assert all(grid.panels for grid in grids)
    assert {grid.runsets[0].groupby[0] for grid in grids} == {"segments"}
    headings = [block.text for block in made.blocks if isinstance(block, wr.H1)]
    assert headings == ["Quality at each number of steps", "Samples", "Training", "Do it again"]


@pytest.mark.parametrize("arguments", [[], [""], ["a", "b", "c"]])
def test_without_an_entity_nothing_is_saved(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "ENTITY=" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "said"), [([], "ENTITY="), (["nobody"], "wandb login")])
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, said, tmp_path):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-m", "decm.report.dashboards", *arguments],
        env={
            **kept,
            "HOME": str(tmp_path),
            "NETRC": str(tmp_path / "netrc"),
            "PYTHONPATH": str(ROOT / "src"),
            "WANDB_MODE": "offline",
        },
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_every_segment_of_the_methods_has_panels():
    methods = [path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")]
    assert len(methods) > 10
    used = {str(name) for method in methods for name in compose("train", [f"method={method}"]).method}
    assert used == set(segments_of_methods())
