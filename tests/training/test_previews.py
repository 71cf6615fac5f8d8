"""Every k optimizer steps: pictures of the same seeds, and a quick evaluation, of the averaged student."""

import pytest
import torch

from decm.evaluation.evaluator import Evaluator
from decm.evaluation.progress import Job
from decm.flow.flow_map import FlowMap
from decm.training.callbacks.evaluation.previews import Evaluate, Previews
from decm.training.callbacks.evaluation.speed import PlainProgress, Speed
from decm.training.callbacks.method.ema import EMA
from decm.training.csv_logger import MetricsCSV
from helpers import CLASSES
from tiny import GLOBAL_BATCH, all_segments, fit, tiny_module
from training.test_csv_logger import lines

NFES, SEGMENTS = (1, 2), ("instantaneous", "consistency", "noise_to_noisy")


class MeanJudge:
    """Scores samples by their mean."""

    metric, reference = "mean", "nothing"

    def features(self, samples):
        return {"samples": samples}

    def compare(self, features, labels):
        return {"value": float(features["samples"].mean())}


class Painter:
    """Keeps what it is asked to paint."""

    columns = 5

    def __init__(self):
        self.painted = {}

    def compare(self, rows, path):
        self.painted[path.name] = rows
        path.write_text("a picture")


def evaluator():
    return Evaluator(MeanJudge(), (2, 1, 1), CLASSES, seed=3)


def previews(folder, every=2, teacher=None):
    painter = Painter()
    return painter, Previews(
        every,
        NFES,
        evaluator=evaluator(),
        painter=painter,
        folder=folder / "previews",
        trained_on=SEGMENTS,
        teacher=teacher,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(module, painter, folder) after five optimizer steps of two micro-batches, with both callbacks every two."""
    folder = tmp_path_factory.mktemp("run")
    module = tiny_module()
    painter, callback = previews(folder, teacher=FlowMap(module.teacher))
    evaluate = Evaluate(2, NFES, 10, evaluator(), None, SEGMENTS)
    callbacks = [
        *all_segments(),
        EMA(),
        Speed(GLOBAL_BATCH),
        callback,
        evaluate,
        PlainProgress(Job("tiny", {}), "training"),
    ]
    fit(
        module,
        callbacks,
        5,
        logger=MetricsCSV(folder),
        log_every_n_steps=1,
        accumulate_grad_batches=2,
        default_root_dir=folder,
    )
    return module, painter, folder


def test_previews_come_once_every_two_optimizer_steps(run):
    _, painter, folder = run
    assert sorted(painter.painted) == ["step_000002.png", "step_000004.png"]
    assert sorted(path.name for path in (folder / "previews").iterdir()) == sorted(painter.painted)


def test_a_preview_has_the_teacher_at_its_most_steps_and_a_row_for_each_nfe(run):
    module, painter, _ = run
    rows = painter.painted["step_000004.png"]
    assert list(rows) == ["teacher, 2", "1 step", "2 steps"]
    expected = evaluator().samples(FlowMap(module.teacher), 2, 5, ())
    assert torch.equal(rows["teacher, 2"], expected)


def test_the_same_seeds_are_drawn_from_a_student_that_moved(run):
    """The teacher's row stays; the student's change."""
    _, painter, _ = run
    early, late = painter.painted["step_000002.png"], painter.painted["step_000004.png"]
    assert torch.equal(early["teacher, 2"], late["teacher, 2"])
    assert not torch.equal(early["1 step"], late["1 step"])


def test_evaluation_in_the_loop_logs_the_distance_at_each_nfe_and_step(run):
    _, _, folder = run
    figures = {int(line["step"]): (line["fd/1"], line["fd/2"]) for line in lines(folder) if line["fd/1"]}
    assert sorted(figures) == [2, 4]
    assert len({value for pair in figures.values() for value in pair}) == 4


def test_what_is_evaluated_is_the_average(tmp_path):
    """With decay 0 that is the student itself, and another value than with the default."""
    values = []
    for decay in (0.0, 0.999):
        folder = tmp_path / str(decay)
        folder.mkdir()
        module = tiny_module()
        ema, evaluate = EMA(decay=decay), Evaluate(2, NFES, 10, evaluator(), None, SEGMENTS)
        fit(module, [*all_segments(), ema, evaluate], 2, logger=MetricsCSV(folder))
        direct = evaluator()(FlowMap(module.ema), NFES, 10, SEGMENTS)[1]["value"]
        values.append(next(float(line["fd/1"]) for line in lines(folder) if line["fd/1"]))
        assert values[-1] == direct
    student = evaluator()(FlowMap(module.student), NFES, 10, SEGMENTS)[1]["value"]
    assert values[0] == pytest.approx(student, rel=1e-5)
    assert values[0] != pytest.approx(values[1], rel=1e-3)


def test_every_zero_is_never(tmp_path):
    painter, callback = previews(tmp_path, every=0)
    fit(tiny_module(), [*all_segments(), callback, Evaluate(0, NFES, 10, evaluator(), None, SEGMENTS)], 3)
    assert painter.painted == {}


def test_without_a_teacher_a_preview_has_the_students_rows_alone(tmp_path):
    painter, callback = previews(tmp_path, every=1)
    fit(tiny_module(), [*all_segments(), callback], 1)
    assert list(painter.painted["step_000001.png"]) == ["1 step", "2 steps"]


def test_losses_and_throughput_are_logged_under_their_names(run):
    _, _, folder = run
    logged = [line for line in lines(folder) if line["loss/consistency"]]
    assert len(logged) == 5
    names = {"consistency", "instantaneous", "noise_to_noisy", "mean_flow"}
    assert {key.removeprefix("loss/") for key in logged[0] if key.startswith("loss/")} == names
    assert {key.removeprefix("tangent/") for key in logged[0] if key.startswith("tangent/")} == names
    assert any(float(line["speed/samples_per_s"] or 0) > 0 for line in logged)


def test_progress_names_the_run_the_step_and_the_losses_and_not_at_every_step(capsys):
    fit(
        tiny_module(),
        [*all_segments(), PlainProgress(Job("tiny", {"training": 3.0, "evaluation": 1.0}), "training")],
        5,
    )
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny  ")]
    assert said.startswith("tiny  training 100%  job 75%, ")
    assert "step 5/5" in said
    assert "consistency 0." in said


def test_seconds_of_training_are_kept_over_a_resume():
    speed = Speed(GLOBAL_BATCH)
    speed.load_state_dict({"seconds": 100.0})
    fit(tiny_module(), [*all_segments(), speed], 1)
    assert 100.0 < speed.seconds < 130.0
