"""`decm export`: a folder with a card that tells the run's figures, and graphs that give what the network gives."""

import json

import pytest
import torch

from commands import RING, TINY, decm, only, results, train
from decm.flow.randomness import normal
from decm.generator import graphs
from decm.generator.model import Generator

NAMES = ["README.md", "config.json", "model.safetensors"]


def refused(answer, *said):
    assert answer.code == 2, answer.said
    assert "Traceback" not in answer.said
    assert [words for words in said if words not in answer.err] == []


def test_the_folder_is_the_runs_generator_and_its_card_has_the_runs_figures(finished, tmp_path):
    answer = decm("export", f"run={finished.folder}", f"out={tmp_path / 'model'}")
    assert answer.code == 0, answer.said
    assert "at step 6" in answer.out
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == NAMES
    model, run = (Generator.from_pretrained(path, device="cpu") for path in (tmp_path / "model", finished.folder))
    assert torch.equal(model.states([0, 1, 2], 2), run.states([0, 1, 2], 2))
    figures, card = results(finished.folder), (tmp_path / "model/README.md").read_text()
    for nfe, value in figures["student"].items():
        row = f"| {nfe} | {figures['samplers'][nfe]} | {value:.3f} | {figures['teacher'][nfe]:.3f} |"
        assert row in card
    for said in (figures["reference"], "License: Apache-2.0", "Generator.from_pretrained", '"max_steps": 6', "digits"):
        assert said in card
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert (config["results"], config["schema_version"]) == (figures, 1)
    assert config["code_version"] == figures["code_version"]
    assert config["network"]["hidden_size"] == 24
    assert str(finished.runs) not in card + json.dumps(config["training"])


def test_a_checkpoint_within_the_run_has_not_the_figures_of_its_end(finished, tmp_path):
    """Nor has the average of another width."""
    answer = decm("export", f"run={finished.folder / 'checkpoints/step_00000004.ckpt'}", f"out={tmp_path / 'model'}")
    assert answer.code == 0, answer.said
    assert "were not evaluated" in (tmp_path / "model/README.md").read_text()


def test_what_is_there_is_not_overwritten_unless_told(finished, tmp_path):
    for kind, name in (("pretrained", "config.json"), ("torch_export", "generator.pt2")):
        (tmp_path / name).write_text("mine")
        settings = [f"run={finished.folder}", f"out={tmp_path}", f"format={kind}"]
        refused(decm("export", *settings), name, "overwrite=true")
        assert (tmp_path / name).read_text() == "mine"
        assert decm("export", *settings, "overwrite=true").code == 0
        assert (tmp_path / name).read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["format=tflite"], "expected pretrained, torch_export or onnx"),
        (["run=nowhere"], "'nowhere' does not exist"),
        (["ema_sigma_rel=0.1"], "snapshots"),
        (["foo=1"], "foo"),
    ],
)
def test_what_cannot_be_exported_is_refused(finished, tmp_path, overrides, said):
    refused(decm("export", f"run={finished.folder}", f"out={tmp_path / 'model'}", *overrides), said)
    assert list(tmp_path.iterdir()) == []


def test_another_average_of_the_run_is_exported_where_asked(runs, tmp_path):
    assert train(runs, "snapshots.every=2", "seed=3").code == 0
    run = only(runs / "smoke")
    answer = decm("export", f"run={run}", f"out={tmp_path / 'other'}", "ema_sigma_rel=0.2")
    assert answer.code == 0, answer.said
    other, plain = (Generator.from_pretrained(path, device="cpu") for path in (tmp_path / "other", run))
    assert (other.config["weights"], other.config["results"]) == ("average of sigma_rel 0.2", None)
    assert not torch.equal(other.states([0, 1]), plain.states([0, 1]))


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    runs = tmp_path_factory.mktemp("ring")
    answer = train(runs, settings=[*TINY, *RING, "max_steps=20"])
    assert answer.code == 0, answer.said
    return only(runs / "decm_2d")


def loaded(kind, file):
    """The graph as one that has the file alone would run it."""
    if kind == "torch_export":
        return torch.export.load(file).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda z, y: torch.from_numpy(session.run(None, {"z": z.numpy(), "y": y.numpy()})[0])


@pytest.mark.slow
@pytest.mark.parametrize("network", ["digits", "ring"])
@pytest.mark.parametrize("kind", ["torch_export", "onnx"])
def test_a_graph_gives_the_one_step_samples_for_any_number_of_rows(network, kind, finished, ring, tmp_path):
    run = finished.folder if network == "digits" else ring
    answer = decm("export", f"run={run}", f"out={tmp_path}", f"format={kind}")
    assert answer.code == 0, answer.said
    (file,) = tmp_path.iterdir()
    model, run_graph = Generator.from_pretrained(run, device="cpu"), loaded(kind, file)
    for rows in (1, 5, 16):
        labels = torch.arange(rows) % max(1, model.manifest.num_classes)
        z = normal(3, "sample", torch.arange(rows), model.manifest.shape)  # what Generator draws of seed 3
        expected = model.states(labels, steps=1, seed=3)
        scale = float(expected.abs().max())
        torch.testing.assert_close(run_graph(z, labels), expected, atol=1e-5 * scale, rtol=0)
        assert (run_graph(z.flip(0) + 1, labels) - expected).abs().max() > 0.1


def test_a_graph_that_gives_something_else_is_not_left(finished, tmp_path, monkeypatch):
    """A norm that does not divide, say."""

    def wrong(g, x, shape, weight, eps):
        return g.op("Mul", x, weight)

    monkeypatch.setattr(graphs, "rms_norm", wrong)
    refused(decm("export", f"run={finished.folder}", f"out={tmp_path}", "format=onnx"), "differs from the network by")
    assert list(tmp_path.iterdir()) == []


def test_the_facts_travel_in_the_graphs(finished, tmp_path):
    import onnx

    for kind in ("torch_export", "onnx"):
        assert decm("export", f"run={finished.folder}", f"out={tmp_path}", f"format={kind}").code == 0
    extra = {"decm.json": ""}
    torch.export.load(tmp_path / "generator.pt2", extra_files=extra)
    (facts,) = onnx.load(tmp_path / "generator.onnx").metadata_props
    for text in (extra["decm.json"], facts.value):
        assert json.loads(text)["data"]["mean"] == [0.5]
