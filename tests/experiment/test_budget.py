"""`budget=`: methods that cost differently a step end at the same cost."""

import pytest

from commands import RING, TINY, decm, only, results, train

BUDGET = 20_000
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def spent(finished, tmp_path_factory):
    """{method: (forward-equivalents, steps, batch size, what was said)} of runs with the same budget."""
    import yaml

    found = {}
    for method in ("decm", "fm"):
        runs = tmp_path_factory.mktemp(method)
        finished.begin(runs)
        answer = train(runs, f"method={method}", f"budget={BUDGET}", "max_steps=3")
        assert answer.code == 0, answer.said
        folder = only(runs / "smoke")
        config = yaml.safe_load((folder / "config.yaml").read_text())
        found[method] = results(folder)["forward_equivalents"], config, answer
    return found


def test_two_methods_of_the_same_budget_end_within_a_step_of_it(spent):
    for cost, config, answer in spent.values():
        steps = config["max_steps"]
        assert cost <= BUDGET < cost + cost / steps
        assert f"budget 2e+04 forward-equivalents: {steps:,} steps" in answer.out
    assert spent["fm"][1]["max_steps"] > 2 * spent["decm"][1]["max_steps"]  # a step of it is cheaper


def test_schedules_follow_the_steps_that_the_budget_allows(spent):
    for _, config, _ in spent.values():
        assert config["schedule"]["total"] == config["max_steps"] != 3
    n2n = spent["decm"][1]["method"]["noise_to_noisy"]
    assert n2n["decay_steps"] == spent["decm"][1]["max_steps"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["budget=100"], "budget=100 forward-equivalents; one step of these settings takes"),
        (["budget=-1"], "one step of these settings takes"),
        (["budget=nan"], "budget=nan; expected a finite number"),
        (["budget=1e6", "distill=false"], "with distill=false there is none"),
        (["budget=much"], "budget"),
    ],
)
def test_a_budget_that_pays_nothing_is_refused(tmp_path, overrides, said):
    answer = decm("train", *TINY, f"runs={tmp_path}", *overrides)
    assert (answer.code, said in answer.err) == (2, True), answer.err
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tells_the_steps_of_a_budget(tmp_path):
    answer = decm("train", *RING, f"runs={tmp_path}", "budget=1e6", "dry_run=true")
    assert answer.code == 0, answer.said
    cost = float(answer.out.split("cost")[1].split()[0])
    assert 0.99e6 < cost <= 1e6
