"""The comparison: equal tuning, choices by the score, only what is missing is run, failures are shown."""

import json
import re

import pytest
import yaml
from comparing.choices import beaten, choose, sentences
from comparing.jobs import failure
from comparing.plan import Job, identity, read_plan, run_jobs, settings, tune_jobs
from comparing.rows import read_run, summary
from comparing.samplers import best
from comparing.writing import described, table, write

from commands import ROOT
from decm.settings.composition import plain

SMALL = [
    "batch_size=16",
    "network.hidden_size=24",
    "network.depth=1",
    "trainer=cpu",
    "evaluation.nfe=[1,2,4]",
    "evaluation.num_samples=60",
    "evaluation.every_num_samples=60",
]
PLAN = {
    "experiment": "smoke",
    "budget": 6000,
    "out": "small",
    "seeds": [0],
    "evaluations": 2,
    "overrides": SMALL,
    "methods": {"decm": {"method": "decm", "candidates": [["optimizer.lr=1e-3"], ["optimizer.lr=1e30"]]}},
}


def written(folder, **changes):
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": {**PLAN["methods"], "fm": {"method": "fm"}}}, "as many candidates for each method"),
        ({"tuning": {"seed": 0}}, "is one of the compared seeds"),
        ({"tuning": {"share_of_budget": 2.0}}, "share_of_budget=2.0"),
        ({"budgets": 3}, "budgets"),
        ({"methods": {"decm": {"method": "decm", "candidate": [[]]}}}, "candidate"),
    ],
)
def test_a_plan_that_is_unfair_or_misspelt_is_refused(tmp_path, changes, said):
    read_plan(written(tmp_path))
    with pytest.raises(ValueError, match=re.escape(said)):
        read_plan(written(tmp_path, **changes))


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / "benchmarks" / "compare").glob("*.yaml"))])
def test_every_job_of_the_plans_here_has_settings_that_compose(name, tmp_path):
    plan = read_plan(ROOT / "benchmarks" / "compare" / f"{name}.yaml")
    jobs = [job for method in plan.methods for job in tune_jobs(plan, method, tmp_path, [])]
    assert len({job.folder for job in jobs}) == len(jobs)  # no candidate is another one's twin
    assert min(job.steps for job in jobs) > 20


def test_a_mistake_in_a_candidate_is_named_before_anything_runs(tmp_path):
    methods = {"decm": {"method": "decm", "candidates": [["optimizer.rate=1"]]}}
    with pytest.raises(ValueError, match=r"decm, candidate 0.*rate"):
        tune_jobs(read_plan(written(tmp_path, methods=methods)), "decm", tmp_path, [])


def test_samplers_are_of_a_run_and_not_of_a_tuning():
    overrides = ["experiment=smoke", "budget=6000"]
    usual = plain(settings(overrides))
    other = plain(settings([*overrides, "evaluation.samplers={2: euler}"]))
    slower = plain(settings([*overrides, "optimizer.lr=1e-5"]))
    assert identity(usual, tuned=True) == identity(other, tuned=True)
    assert identity(usual, tuned=False) != identity(other, tuned=False)
    assert identity(usual, tuned=True) != identity(slower, tuned=True)


@pytest.mark.slow
def test_a_folder_from_before_a_setting_was_added_is_still_the_job_s(tmp_path):
    """A setting that its configuration has otherwise, or another method, makes it another job's."""
    plan = read_plan(written(tmp_path))
    job = tune_jobs(plan, "decm", tmp_path, [])[0]
    found = plain(settings(list(job.overrides)))
    older = {**found, "trainer": {k: v for k, v in found["trainer"].items() if k != "clip_norm"}}
    segments = {k: v for k, v in found["method"].items() if k != "noise_to_noisy"}
    for key, config, same in (
        ("older", older, True),
        ("other", {**older, "label_drop": 0.5}, False),
        ("fewer", {**older, "method": segments}, False),
    ):
        folder = tmp_path / key / f"decm-3-0-{key}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        again = tune_jobs(plan, "decm", folder.parent, [])[0].folder
        assert (again == folder) == same, key
        assert same or again.name == job.folder.name


def test_the_tuning_and_the_runs_have_their_budgets(tmp_path):
    plan = read_plan(written(tmp_path, seeds=[0, 1]))
    (tuned, _), runs = tune_jobs(plan, "decm", tmp_path, []), run_jobs(plan, "decm", 0, tmp_path, [])
    assert (tuned.steps, [job.steps for job in runs]) == (16, [32, 32])  # 184 forward-equivalents a step
    assert [job.seed for job in (tuned, *runs)] == [3, 0, 1]
    assert f"evaluation.every={32 // 2}" in runs[0].overrides


def finished_run(folder, seed, values, **more):
    """A run folder with these metrics by NFE, written by hand."""
    folder.mkdir(parents=True)
    results = {
        "seed": seed,
        "metric": "frechet_distance",
        "reference": "r",
        "num_samples": 60,
        "floor": {"value": 0.1},
        "student": values,
        "teacher": dict.fromkeys(values, 9.0),
        "samplers": dict.fromkeys(values, "euler"),
        "forward_equivalents": 1000.0,
        "seconds": {},
        "code_version": "0",
        **more,
    }
    config = {
        "name": "smoke",
        "max_steps": 10,
        "batch_size": 4,
        "teacher": {"kind": "exact"},
        "evaluation": {"every_num_samples": 50},
    }
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.csv").write_text(f"step,fd/1\n5,{2 * values['1']}\n10,{values['1']}\n")
    return read_run(folder)


def test_the_best_geometric_mean_is_chosen_and_never_a_failure(tmp_path):
    methods = {"decm": {"method": "decm", "candidates": [[f"optimizer.lr={k}"] for k in range(4)]}}
    plan = read_plan(written(tmp_path, methods=methods))
    jobs = [Job("decm", 3, (), tmp_path / str(k), k, 5) for k in range(4)]
    values = [{"1": 1.0, "2": 8.0}, {"1": 2.0, "2": 3.0}, {"1": float("nan"), "2": 0.1}]
    for job, value in zip(jobs, values, strict=False):
        finished_run(job.folder, 3, value)
    jobs[3].folder.mkdir()
    (jobs[3].folder / "failed.json").write_text('{"why": "it went wrong"}')
    found = choose(plan, "decm", jobs)
    assert found["chosen"] == 1  # its arithmetic mean is better too; its NFE 1 is not
    assert [tried["score"] for tried in found["candidates"]] == pytest.approx([8**0.5, 6**0.5, None, None])
    assert failure(jobs[2]) == "its samples are not finite at NFE 1"
    assert found["candidates"][3]["failed"] == "it went wrong"
    assert choose(plan, "decm", jobs[2:])["chosen"] is None


def test_the_best_sampler_is_the_lowest_finite_one():
    assert best({"2": {"euler": 2.0, "consistency": float("nan"), "flow_map_steps": 1.0}}) == {"2": "flow_map_steps"}


@pytest.fixture
def compared(tmp_path):
    """decm and two others on two seeds: `near` is worse at NFE 1 and better at NFE 2; `bad` has one failed seed."""
    values = {"decm": [(1.0, 2.0), (1.2, 3.0)], "near": [(1.5, 1.9), (1.6, 2.8)], "bad": [(7.0, 7.0)]}
    runs = {
        name: {k: finished_run(tmp_path / name / str(k), k, {"1": a, "2": b}) for k, (a, b) in enumerate(pairs)}
        for name, pairs in values.items()
    }
    rows = [summary(name, found, title=name.upper()) for name, found in runs.items()]
    rows[2]["failed"] = {1: "it diverged"}
    rows.append({"name": "none", "nfe": {}, "seeds": [], "failed": {"0": "it diverged"}})
    return rows, runs


def test_a_row_is_mean_and_standard_error_the_best_in_bold_and_failures_shown(compared):
    rows, _ = compared
    lines = {line.split(" | ")[0].strip("| "): line for line in table(rows, "frechet_distance").splitlines()}
    assert "| **1.100 ± 0.100** | 2.500 ± 0.500 | 1e+03 | 10 | 25.0 |" in lines["DECM"]
    assert "| 1.550 ± 0.050 | **2.350 ± 0.450** |" in lines["NEAR"]
    assert "failed | failed" in lines["none"]
    assert "**" not in lines["BAD"]


def test_where_a_method_beats_the_reference_it_is_said_by_paired_seeds(compared):
    _, runs = compared
    against = beaten("decm", runs)
    said = sentences(against, {"decm": "DE-CM", "near": "Near"})
    assert said == ["Near beats DE-CM at NFE 2: -0.1500 ± 0.0500, paired over seeds 0, 1; beyond two standard errors."]
    assert sentences([entry for entry in against if entry["name"] == "bad"], {}) == ["Nothing beats decm at any NFE."]
    assert beaten("fm", runs) == []


def test_the_files_hold_the_rows_the_curves_and_the_pairs(compared, tmp_path):
    rows, runs = compared
    write(tmp_path / "out" / "small", described("make compare", rows, runs, "decm"), ["A note."])
    found = json.loads((tmp_path / "out" / "small.json").read_text())
    assert (found["command"], found["num_samples"], found["metric"]) == ("make compare", 60, "frechet_distance")
    assert [row["name"] for row in found["rows"]] == ["teacher", "decm", "near", "bad", "none"]
    assert found["rows"][1]["nfe"]["1"] == {"mean": 1.1, "sem": 0.1}
    points = found["curves"]["decm"]["fd/1"]
    assert [(p["forward_equivalents"], p["mean"]) for p in points] == [(500, 2.2), (1000, 1.1)]
    assert "A note." in (tmp_path / "out" / "small.md").read_text()
    header, _, decm_line, *_ = (tmp_path / "out" / "small.csv").read_text().splitlines()
    assert dict(zip(header.split(","), decm_line.split(","), strict=False))["nfe_1_sem"] == "0.1"
    assert (tmp_path / "out" / "small.png").stat().st_size > 10_000
    assert "<svg" in (tmp_path / "out" / "small.svg").read_text()


def test_methods_and_stages_that_are_not_there_are_refused(tmp_path, monkeypatch, capsys):
    import compare

    for words, said in (
        (["--only", "decm,sdm"], "--only sdm: not a method"),
        (["--stages", "runs"], "--stages runs: expected of"),
        (["--stages", "run"], "is not tuned"),
    ):
        monkeypatch.setattr("sys.argv", ["compare", str(written(tmp_path)), "--runs", str(tmp_path), *words])
        with pytest.raises(SystemExit) as left:
            compare.main()
        assert said in f"{left.value.code}{capsys.readouterr().err}"
