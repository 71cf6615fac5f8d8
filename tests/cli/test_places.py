"""Where a verb is to write is looked at before its work, and nothing is made before it is refused."""

import pytest
from PIL import Image

from commands import decm


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(4):
        Image.effect_noise((8, 8), 30 + k).save(folder / f"{k}.png")
    return folder


def words(verb, run, pictures, out):
    """A command of that verb that would write `out`."""
    return {
        "reference": ["reference", f"images={pictures}", "features=random_small", "keep=0", f"out={out}.npz"],
        "consolidate": ["consolidate", f"checkpoint={run}", f"out={out}.safetensors"],
        "sample": ["sample", f"checkpoint={run}", "nfe=1", "labels=[0]", f"out={out}.png"],
        "report": ["report", f"path={run}", f"out={out}.html"],
        "evaluate": ["evaluate", f"checkpoint={run}", "nfe=[1]", f"out={out}"],
    }[verb]


@pytest.mark.parametrize("verb", ["reference", "consolidate", "sample", "report", "evaluate"])
def test_a_place_below_a_file_is_named_before_the_work(finished, pictures, tmp_path, monkeypatch, verb):
    for work in ("decm.cli.reference.build_reference", "decm.cli.evaluate.score_models"):
        monkeypatch.setattr(work, None)  # to call it would fail
    (tmp_path / "file").touch()
    answer = decm(*words(verb, finished.folder, pictures, tmp_path / "file" / "below" / "x"))
    assert answer.code == 2
    assert "out=" in answer.err
    assert "cannot be written" in answer.err
    assert str(tmp_path / "file") in answer.err


@pytest.mark.parametrize(
    "refused",
    [
        ["evaluate", "nfe=[1]", "ema_sigma_rel=0.1"],
        ["evaluate", "nfe=[1]", "num_samples=2"],
        ["evaluate", "nfe=[0]"],
        ["sample", "nfe=1", "labels=[99]"],
    ],
)
def test_what_is_refused_makes_no_folder(finished, tmp_path, refused):
    verb, *settings = refused
    out = tmp_path / "a" / "b" / ("x.png" if verb == "sample" else "x")
    answer = decm(verb, f"checkpoint={finished.folder}", *settings, f"out={out}")
    assert answer.code == 2
    assert not (tmp_path / "a").exists()


def test_a_comparison_with_what_is_no_run_makes_no_folder(finished, tmp_path):
    answer = decm("report", f"runs=[{finished.folder},{tmp_path}]", f"out={tmp_path / 'a' / 'b.html'}")
    assert answer.code == 2
    assert not (tmp_path / "a").exists()


def test_a_new_folder_is_made_for_what_is_right(finished, tmp_path):
    answer = decm("evaluate", f"checkpoint={finished.folder}", "nfe=[1]", f"out={tmp_path / 'a' / 'b'}")
    assert answer.code == 0, answer.said
    assert list((tmp_path / "a" / "b").glob("evaluation_*.json"))
