"""One pass gives all scores, the same for any batches and number of ranks; and the judge that reports them."""

import math

import pytest
import torch

from decm.evaluation.frechet import fit, frechet_distance
from decm.evaluation.scores import Neighborhoods, kernel_distance, precision_recall
from decm.evaluation.statistics import Reference, build_reference
from decm.evaluation.suite import MetricSuite, SuiteJudge
from decm.features.random import RandomInceptionFeatures
from helpers import random_states
from ranks import CASES, PixelFeatures, evaluated, evaluating, images, reference, run_group, scores, scoring

NUM = 101  # divides evenly into nothing


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> list[dict[str, dict[str, float]]]:
    """The scores of each of two real gloo ranks, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    found = run_group(scoring, 2, folder, NUM)
    return [by_case | {"alone": torch.load(folder / "alone.pt")} for by_case in found]


def test_the_scores_are_those_of_the_whole_feature_arrays():
    found = PixelFeatures()(images(NUM, 2, 200))
    known, ours = reference(), scores(0, 1, NUM, keep=1000)
    assert ours["fd"] == pytest.approx(frechet_distance(*fit(found["pool"]), *known.moments["pool"]), rel=1e-10)
    assert ours["sfid"] == pytest.approx(frechet_distance(*fit(found["spatial"]), *known.moments["spatial"]), rel=1e-10)
    assert ours["kid"] == pytest.approx(kernel_distance(found["pool"], known.features)[0], rel=1e-10)
    assert (ours["precision"], ours["recall"]) == precision_recall(found["pool"], Neighborhoods(known.features))
    assert ours["accuracy"] == float((found["logits"].argmax(1) == torch.arange(NUM) % 3).double().mean())
    assert 1 <= ours["is"] <= 3
    assert next(iter(ours)) == "fd"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one(case, two_ranks):
    """On gloo; also where fewer features are kept than seen, and where one rank has no sample at all."""
    one = scores(0, 1, NUM, CASES[case][0])
    for two in (found[case] for found in two_ranks):
        assert two.keys() == one.keys()
        assert two["fd"] == pytest.approx(one["fd"], rel=1e-10, abs=1e-10)
        for name in one:
            assert two[name] == pytest.approx(one[name], rel=1e-9), name


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_an_evaluation_by_several_ranks_is_that_of_one_bit_for_bit_and_each_looks_at_its_own_samples(world, tmp_path):
    """60 samples in 9 batches: in the last round some ranks have none."""
    alone, seen = evaluated(60)
    found = run_group(evaluating, world, tmp_path, 60)
    assert found[0][0] == alone
    assert all(scores is None for scores, _ in found[1:])
    assert sum(own for _, own in found) == seen == 2 * 60
    assert max(own for _, own in found) <= 2 * 7 * math.ceil(9 / world)


@pytest.mark.slow
def test_a_judge_on_one_rank_does_not_wait_for_the_other(two_ranks):
    whole = scores(0, 1, NUM, 1000)
    alone = two_ranks[0]["alone"]
    assert alone.pop("value") == alone["fd"]
    assert alone == pytest.approx(whole, rel=1e-9)


def test_half_of_the_samples_score_otherwise():
    """The negative control of the test above: a rank that does not reduce would be seen."""
    whole, half = scores(0, 1, NUM, 1000), scores(0, 2, NUM, 1000)
    assert abs(half["fd"] / whole["fd"] - 1) > 1e-3


def test_without_reference_features_the_neighborhood_scores_are_left_out():
    full = reference()
    bare = Reference(full.moments, full.provenance)
    suite = MetricSuite(PixelFeatures(), bare, 20)
    suite.update(images(20, 2), torch.zeros(20))
    assert suite.compute().keys() == {"fd", "sfid", "is", "accuracy"}
    suite = MetricSuite(PixelFeatures(), full, 20, keep=0)
    suite.update(images(20, 2), torch.zeros(20))
    assert "kid" not in suite.compute()


def test_samples_beyond_the_announced_number_are_an_error():
    suite = MetricSuite(PixelFeatures(), reference(), 10)
    suite.update(images(6, 2), torch.zeros(6))
    with pytest.raises(ValueError, match="numbers 0 to 9"):
        suite.update(images(6, 2), torch.zeros(6))


def to_pixels(x: torch.Tensor) -> torch.Tensor:
    return ((x + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)


def test_the_judge_turns_states_into_pixels_and_reports_the_distance_as_its_value():
    judge = SuiteJudge([(PixelFeatures(), reference())], to_pixels, batch_size=13)
    states = 0.2 * random_states(50, (3, 4, 4)).float()
    found = judge.score(states, torch.zeros(50))
    pool = PixelFeatures()(to_pixels(states))["pool"]
    assert found["value"] == found["fd"] == pytest.approx(frechet_distance(*fit(pool), *reference().moments["pool"]))
    assert judge.metric == "frechet_distance"
    assert "random pixels (150 images), features pixels" in judge.reference
    assert judge.score(states + 1, torch.zeros(50))["value"] > found["value"]


def test_every_score_of_a_repeated_picture_is_defined():
    known = reference()
    judge = SuiteJudge([(PixelFeatures(), known)], lambda x: x, batch_size=13)
    repeated = images(150, 1)[:1].expand(50, 3, 4, 4)  # of the reference
    found = judge.score(repeated, torch.zeros(50))
    row, (mean, cov) = known.features[0].double(), known.moments["pool"]
    assert found["value"] == pytest.approx(float((row - mean).square().sum() + cov.trace()), rel=1e-12)
    assert found["is"] == pytest.approx(1, rel=1e-12)
    assert (found["precision"], found["recall"]) == (1, 1 / 150)
    assert {"fd", "sfid", "kid", "accuracy"} <= found.keys()
    assert all(map(math.isfinite, found.values()))


def test_the_floor_is_a_resample_of_the_whole_reference_or_nothing():
    whole = reference()
    judge = SuiteJudge([(PixelFeatures(), whole)], to_pixels)
    assert (
        0
        < judge.floor(1000)["value"]
        < judge.floor(40)["value"]
        < judge.score(random_states(50, (3, 4, 4)), torch.zeros(50))["value"]
    )
    part = Reference(whole.moments, whole.provenance, whole.features[:50])
    assert SuiteJudge([(PixelFeatures(), part)], to_pixels).floor(40) == {}
    assert SuiteJudge([(PixelFeatures(), Reference(whole.moments))], to_pixels).floor(40) == {}


def test_a_second_extractor_adds_its_own_scores_in_the_same_pass():
    class Second(PixelFeatures):
        name, metric = "second", "fdd"

    calls = []
    known = reference()
    other = Reference(known.moments, {**known.provenance, "features": "second"}, known.features)

    def counting(x):
        calls.append(len(x))
        return to_pixels(x)

    judge = SuiteJudge([(PixelFeatures(), known), (Second(), other)], counting, batch_size=10)
    found = judge.score(0.2 * random_states(20, (3, 4, 4)).float(), torch.zeros(20))
    assert calls == [10, 10]
    assert found["fdd"] == found["fd"]
    assert found["precision_second"] == found["precision"]


@pytest.mark.slow
def test_the_judge_with_random_inception_runs_end_to_end_and_says_that_it_means_nothing():
    extractor = RandomInceptionFeatures()
    known = build_reference(images(12, 1).split(6), extractor, "noise", "1.0")
    assert known.provenance["meaningless"]
    judge = SuiteJudge([(extractor, known)], to_pixels, batch_size=6)
    found = judge.score(0.2 * random_states(8, (3, 4, 4)).float(), torch.zeros(8))
    assert {"value", "fid", "sfid", "is", "kid", "precision", "recall"} == found.keys()
    assert all(map(torch.isfinite, map(torch.tensor, found.values())))
    assert "mean nothing" in judge.reference
