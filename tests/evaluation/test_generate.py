"""Samples from seeds: sample i is a function of (seed, i), whatever the batches; labels; the evaluator."""

import numpy as np
import pytest
import torch

from decm.evaluation.evaluator import Evaluator
from decm.evaluation.generate import balanced_labels, check_labels, generate, generate_many, in_batches
from decm.evaluation.judge import Judge
from decm.flow.exact import GaussianFlow
from decm.flow.flow_map import FlowMap
from decm.flow.solvers import choose_sampler
from helpers import CLASSES, Counting, largest, randomize_parameters, small_dit

SHAPE = (2, 8, 8)
NET = randomize_parameters(small_dit())
FLOW = FlowMap(NET)


def run(labels, nfe=2, sampler="consistency", seed=0, batch_size=500) -> torch.Tensor:
    return generate_many(FLOW, SHAPE, labels=labels, nfe=nfe, sampler=sampler, seed=seed, batch_size=batch_size)[
        "samples"
    ]


@pytest.mark.parametrize("sampler", ["consistency", "n2n_then_consistency", "euler", "flow_map_steps"])
def test_a_sample_does_not_depend_on_its_batch(sampler):
    """Bitwise for batches of the same size, to 1e-5 otherwise; consistency sampling renoises, by the same law."""
    labels = balanced_labels(12, CLASSES)
    whole = run(labels, 3, sampler)
    for size in (1, 5, 12):
        assert largest(run(labels, 3, sampler, batch_size=size) - whole) < 1e-5
    first, second = torch.arange(4), torch.arange(4, 8)
    parts = [generate(FLOW, SHAPE, labels[index], 3, sampler, index=index) for index in (second, first)]
    assert torch.equal(torch.cat(parts[::-1]), run(labels, 3, sampler, batch_size=4)[:8])


def test_sample_i_is_the_same_in_a_longer_set_and_another_with_another_seed():
    labels = balanced_labels(8, CLASSES)
    assert torch.equal(run(labels[:4], batch_size=4), run(labels, batch_size=4)[:4])
    assert largest(run(labels, seed=1) - run(labels)) > 0.1
    assert largest(run(labels)[0] - run(labels)[CLASSES]) > 0.1  # the same label, another index


def test_the_renoising_of_another_sample_or_step_is_another():
    """At the map that returns its input, two-step consistency sampling shows its noise."""
    identity = FlowMap(lambda x, t, s, y: torch.zeros_like(x))
    x = generate(identity, (4,), torch.zeros(3, dtype=torch.long), 3, "consistency")
    again = generate(identity, (4,), torch.zeros(2, dtype=torch.long), 3, "consistency", index=torch.tensor([2, 0]))
    assert torch.equal(again, x[[2, 0]])
    assert largest(x[0] - x[1]) > 0.1


def test_the_generator_of_torch_plays_no_part():
    labels = balanced_labels(4, CLASSES)
    torch.manual_seed(0)
    first = run(labels)
    torch.manual_seed(1)
    assert torch.equal(run(labels), first)


def test_labels_are_balanced():
    assert balanced_labels(20, 5).bincount().tolist() == [4] * 5
    counts = balanced_labels(23, 5).bincount()
    assert counts.max() - counts.min() == 1
    assert balanced_labels(6, 0).tolist() == [0] * 6


def test_labels_outside_the_classes_are_named():
    assert check_labels([0, 4], 5).tolist() == [0, 4]
    for labels, found in (([0, 5], r"of which \[5\]"), ([-1], r"of which \[-1\]"), ([], "Found no labels")):
        with pytest.raises(ValueError, match=found):
            check_labels(labels, 5)


def test_a_number_is_a_label_and_a_text_is_a_name_also_where_names_are_numbers():
    names = ["1", "2", "10"]
    assert check_labels([1, "1", 2, "2", "10"], 3, names).tolist() == [1, 0, 2, 1, 2]
    assert check_labels(np.array(names), 3, names).tolist() == [0, 1, 2]
    for label in (10, "0", "3"):  # no label, no names
        with pytest.raises(ValueError, match=r"expected classes 0 to 2|is the name of no class"):
            check_labels([label], 3, names)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("crane", r"labels\[0\]='crane' is ambiguous: the labels 1, 3 are called so"),
        ("rign", r"'rign' is the name of no class: close are 'ring' \(0\)"),
        ("Ring", r"close are 'ring' \(0\)"),
        ("cat", r"close are 'tabby cat' \(2\)"),
        ("zebra", r"'zebra' is the name of no class; expected the name of a class, or its label"),
        ("", r"'' is the name of no class;"),
        (1.0, r"labels\[0\]=1.0; expected a whole number, or the name of a class"),
        (True, r"labels\[0\]=True; expected"),
        (None, r"labels\[0\]=None; expected"),
        (b"ring", r"labels\[0\]=b'ring'; expected"),
    ],
)
def test_a_name_that_is_unknown_or_ambiguous_is_refused_with_those_close_to_it(label, said):
    with pytest.raises(ValueError, match=said):
        check_labels([label], 5, ["ring", "crane", "tabby cat", "crane"])


def test_names_need_a_set_that_has_them():
    assert check_labels([1], 3, None).tolist() == [1]
    with pytest.raises(ValueError, match=r"'1': the names of the classes are not known; .* from 0 to 2"):
        check_labels(["1"], 3, None)


def test_every_index_is_in_exactly_one_batch():
    parts = list(in_batches(23, 5))
    assert torch.equal(torch.cat(parts), torch.arange(23))
    assert max(map(len, parts)) == 5


class Counted(Judge):
    """A judge that notes what it was given."""

    metric, reference = "count", "nothing"

    def features(self, samples):
        return {"mean": samples.flatten(1).mean(1)}

    def compare(self, features, labels):
        mean = features["mean"]
        return {"value": float(len(mean)), "mean": float(mean.mean()), "labels": float(labels.bincount().max())}

    def floor(self, num):
        return {"value": 0.0}


def evaluator(**overrides) -> Evaluator:
    return Evaluator(Counted(), SHAPE, CLASSES, batch_size=6, **overrides)


def test_the_evaluator_scores_each_nfe_with_balanced_labels_and_its_seed():
    told = []
    scores = evaluator()(FLOW, [1, 2], 10, ("consistency",), told.append)
    assert {nfe: (score["value"], score["labels"]) for nfe, score in scores.items()} == {1: (10, 2), 2: (10, 2)}
    assert told == ["1 step", "2 steps"]
    assert scores == evaluator()(FLOW, [1, 2], 10, ("consistency",))
    assert scores[1]["mean"] != evaluator(seed=1)(FLOW, [1], 10, ("consistency",))[1]["mean"]


def test_the_evaluator_spends_exactly_the_steps_it_reports():
    counting = Counting(NET)
    for nfe in (1, 3):
        counting.calls = 0
        evaluator().samples(FlowMap(counting), nfe, 12, ("consistency", "instantaneous"))
        assert counting.calls == 2 * nfe  # two batches


def test_the_sampler_follows_the_rule_unless_it_is_overridden():
    names = ("consistency", "noise_to_noisy", "instantaneous")
    plain, other = evaluator(), evaluator(samplers={4: "heun"})
    assert plain.sampler(4, names) == choose_sampler(4, names) == "flow_map_steps"
    assert other.sampler(4, names) == "heun"
    assert other.sampler(2, names) == plain.sampler(2, names)
    assert plain.sampler(50, names) == "flow_map_steps"
    assert other.sampler(4, ()) == "euler"  # a velocity alone has nothing to override


@pytest.mark.parametrize(("nfe", "num", "message"), [(0, 10, "nfe=0"), (1001, 10, "nfe=1001"), (1, 1, "at least 2")])
def test_impossible_requests_are_errors(nfe, num, message):
    with pytest.raises(ValueError, match=message):
        evaluator()(FLOW, [nfe], num, ("consistency",))
    with pytest.raises(ValueError, match="unknown"):
        evaluator(samplers={2: "magic"})(FLOW, [2], 10, ("consistency",))


def test_samples_of_the_exact_flow_have_the_data_distribution():
    samples = Evaluator(Counted(), (2, 1, 1), 0).samples(FlowMap(GaussianFlow(0.7, 0.3)), 1, 4000, ("consistency",))
    assert float(samples.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(samples.std()) == pytest.approx(0.3, abs=0.02)
