"""The comparison from end to end: what is missing is run, what failed is shown, a sweep's folders are rows."""

import json

import pytest

from benchmarks.test_compare import PLAN, SMALL, written
from commands import decm


@pytest.mark.slow
def test_a_comparison_runs_what_is_missing_and_shows_what_failed(runs, tmp_path, monkeypatch, capsys):
    """All stages in processes of their own; the second candidate diverges, and a lost result alone is made again."""
    import compare

    def compares(*more):
        words = ["compare", written(tmp_path), "--runs", runs, "--out", tmp_path / "out", *more, "logger=csv"]
        monkeypatch.setattr("sys.argv", [str(word) for word in words])
        compare.main()
        return capsys.readouterr().out

    said = compares()
    work = runs / "compare" / "plan"
    tuning = json.loads((work / "tuning.json").read_text())["decm"]
    assert (tuning["chosen"], tuning["candidates"][1]["score"]) == (0, None)
    assert "FAILED with code 1" in said
    assert set(json.loads((work / "samplers.json").read_text())["decm"]) == {"2", "4", "50"}
    (row,) = json.loads((tmp_path / "out" / "small.json").read_text())["rows"][1:]
    assert row["forward_equivalents"] <= PLAN["budget"] < row["forward_equivalents"] * 33 / 32
    assert row["overrides"] == ["optimizer.lr=1e-3"]

    logs = {path: path.stat().st_size for path in work.glob("*.log")}
    assert len(logs) == 3
    (lost,) = work.glob("decm-0-0-*/results.json")
    before = json.loads(lost.read_text())["student"]
    lost.unlink()
    assert "run: 1 jobs, 0 of them done" in compares("--stages", "run,table")
    grown = [path for path, size in logs.items() if path.stat().st_size != size]
    assert grown == [lost.parent.with_suffix(".log")]
    assert json.loads(lost.read_text())["student"] == before
    assert "Continuing" in grown[0].read_text()


@pytest.mark.slow
def test_rows_of_a_sweep_are_named_by_its_objectives(runs, tmp_path):
    """The folders that `make ablation` asks of Hydra."""
    from results import collect

    answer = decm(
        "train",
        "-m",
        "experiment=smoke",
        *SMALL,
        "max_steps=2",
        "evaluation.every=0",
        "evaluation.preview_every=0",
        "logger=csv",
        "trainer.log_every=1",
        "method=fm_cd,fm",
        "seed=0,1",
        f"runs={runs}",
        f"hydra.sweep.dir={tmp_path}/sweep",
        "hydra.sweep.subdir=${hydra.runtime.choices.method}-${seed}",
    )
    assert answer.code == 0, answer.said
    found = collect([tmp_path / "sweep"])
    assert {name: sorted(seeds) for name, seeds in found.items()} == {"fm": [0, 1], "fm_cd": [0, 1]}
    assert list(found) == ["fm", "fm_cd"]
