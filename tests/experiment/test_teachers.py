"""A teacher is trained once for each hash of network, data and settings, under a lock, and then reused."""

import time

import pytest
import torch
from omegaconf import OmegaConf

from commands import RING, TINY, only, results, train
from decm.checkpoints.strict import load_strictly
from decm.data.arrays import write_arrays
from decm.experiment.build import build_dataset, build_network
from decm.experiment.teachers import initialize_student, load_or_train_teacher, teacher_config
from decm.generator.checkpoints import read_checkpoint, weights_of
from decm.runs.folders import run_folders
from decm.settings.composition import TEACHER_KEYS, compose, plain, teacher_hash
from forked import decm_beside


def never(cfg, folder):
    pytest.fail("a teacher was trained")


def source_of(*overrides, fit=never):
    """(configuration, source) of the tiny settings."""
    cfg = compose("train", [*TINY, *overrides])
    return cfg, load_or_train_teacher(cfg, build_dataset(cfg), fit)


def hash_of(*overrides):
    return teacher_hash(plain(teacher_config(compose("train", [*TINY, *overrides]))))


def test_the_first_run_trains_a_teacher_and_says_so(finished):
    assert f"Training the teacher first: teacher_smoke in {finished.teacher}" in finished.answer.out
    assert results(finished.folder)["teacher_reused"] is False
    assert torch.load(finished.teacher / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 30


def test_a_second_run_reuses_it(runs):
    before = {path: path.stat().st_mtime_ns for path in only(runs / "teacher_smoke").rglob("*")}
    answer = train(runs, "seed=1", "method=fm_cd", "max_steps=2")
    assert answer.code == 0, answer.said
    assert "Training the teacher first" not in answer.out
    assert results(only(runs / "smoke"))["teacher_reused"] is True
    assert {path: path.stat().st_mtime_ns for path in only(runs / "teacher_smoke").rglob("*")} == before


def test_another_network_has_a_teacher_of_its_own(runs):
    answer = train(runs, "network.hidden_size=36", "max_steps=2")
    assert answer.code == 0, answer.said
    assert "Training the teacher first" in answer.out
    assert len(run_folders(runs, "teacher_smoke")) == 2
    assert results(only(runs / "smoke"))["teacher_reused"] is False


def test_an_unfinished_teacher_is_not_used_but_gone_on_with(runs):
    teacher = only(runs / "teacher_smoke")
    (teacher / "results.json").unlink()
    asked = []
    with pytest.raises(StopIteration):
        source_of(f"runs={runs}", fit=lambda cfg, folder: asked.append(folder) or next(iter(())))
    assert asked == [teacher]


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        (["seed=7", "max_steps=99", "method=cd", "batch_size=32", "optimizer.lr=1e-5", "ema.decay=0.5"], True),
        (["teacher.guidance.scale=3.0", "label_drop=0.5", "trainer=auto", "logger=wandb", "evaluation.seed=1"], True),
        (["network.depth=2"], False),
        (["network.hidden_size=36"], False),
        (["data.heldout=301"], False),
        (["data.split_seed=1"], False),
        (["teacher.experiment=teacher_digits"], False),
    ],
)
def test_the_hash_is_of_network_data_and_the_teachers_own_settings(overrides, same):
    assert (hash_of(*overrides) == hash_of()) is same


def test_every_setting_of_the_teachers_training_is_in_its_hash():
    settings = plain(teacher_config(compose("train", TINY)))
    for key in TEACHER_KEYS:
        changed = {**settings, key: {**settings[key], "x": 1} if isinstance(settings[key], dict) else "changed"}
        assert teacher_hash(changed) != teacher_hash(settings)


def test_the_students_end_embedding_is_no_part_of_the_hash():
    settings = plain(compose("train", TINY))
    student = {**settings, "network": {**settings["network"], "two_times": True}}
    teacher = {**settings, "network": {**settings["network"], "two_times": False}}
    assert teacher_hash(student) == teacher_hash(teacher)


def test_the_teacher_is_the_average_of_its_own_run(runs):
    """Its weights in the field, guided as the settings say; the student starts from them."""
    cfg, source = source_of(f"runs={runs}")
    stored = read_checkpoint(only(runs / "teacher_smoke"))
    average, raw = weights_of(stored), weights_of(stored, "student.")
    assert source.reused
    assert all(torch.equal(value, average[key]) for key, value in source.teacher.network.state_dict().items())
    assert any(not torch.equal(average[key], raw[key]) for key in raw)
    guidance = cfg.teacher.guidance
    assert (source.teacher.field.scale, source.teacher.field.eta_rms) == (guidance.scale, guidance.eta_rms)
    assert source.teacher.field.null == 10


def test_a_student_starts_as_its_teacher(runs):
    cfg, source = source_of(f"runs={runs}")
    student = build_network(cfg.network, cfg.seed)
    initialize_student(student, source, cfg)
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([0.0, 0.3, 0.6, 0.9])
    y, s = torch.tensor([0, 5, 9, 10]), torch.tensor([1.0, 0.3, 0.7, 1.0])
    torch.testing.assert_close(student(x, t, s, y), source.teacher.network(x, t, t, y))


def test_a_student_that_shall_not_start_as_its_teacher_does_not(runs):
    cfg, source = source_of(f"runs={runs}", "teacher.init_student=false")
    student, fresh = build_network(cfg.network, cfg.seed), build_network(cfg.network, cfg.seed)
    initialize_student(student, source, cfg)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), fresh.parameters(), strict=True))


def test_a_checkpoint_named_by_folder_or_file_is_the_teacher(finished, cached):
    for path in (finished.teacher, finished.teacher / "checkpoints/last.ckpt"):
        _, source = source_of(f"runs={cached}", "teacher=checkpoint", f"teacher.path={path}")
        assert source.reused
        assert source.path == str(path)


def test_no_teacher_and_an_exact_one_have_no_weights():
    assert source_of("teacher=none")[1].teacher is None
    _, exact = source_of(*RING)
    assert exact.teacher.network is None
    assert exact.weights is None


def test_an_exact_teacher_is_scored_alone(tmp_path):
    answer = train(tmp_path, "distill=false", "evaluation.nfe=[1]", settings=[*TINY, *RING])
    assert answer.code == 0, answer.said
    assert list(results(only(tmp_path / "decm_2d"))["teacher"]) == ["1"]


def test_loading_is_strict_and_names_what_does_not_fit():
    network = build_network(compose("train", TINY).network, 0)
    weights = dict(network.state_dict())
    missing = weights.pop("pos_embed")
    with pytest.raises(ValueError, match=r"Weights x .*pos_embed: found nothing"):
        load_strictly(network, weights, "Weights x")
    with pytest.raises(ValueError, match=r"extra: .*no such key"):
        load_strictly(network, {**weights, "pos_embed": missing, "extra": torch.zeros(1)}, "Weights x")
    load_strictly(network, weights, "Weights x", lambda key: key.startswith("pos_"))


def test_teacher_auto_without_an_experiment_is_an_error():
    cfg = compose("train", TINY)
    OmegaConf.update(cfg, "teacher.experiment", None)
    with pytest.raises(ValueError, match=r"needs teacher\.experiment"):
        teacher_config(cfg)


@pytest.mark.slow
def test_of_two_runs_at_once_only_one_trains_the_teacher(cached):
    """They start together; the second waits for the first's teacher, and both finish."""
    arguments = ["train", *TINY, f"runs={cached}", "max_steps=2"]
    pair = [decm_beside(*arguments, f"seed={seed}") for seed in range(2)]
    began = time.monotonic()
    said = [process.answer(200).said for process in pair]
    assert [process.poll() for process in pair] == [0, 0], "\n".join(said)
    assert sum("Training the teacher first" in text for text in said) == 1
    assert len(run_folders(cached, "teacher_smoke")) == 1
    assert sorted(results(folder)["teacher_reused"] for folder in run_folders(cached, "smoke")) == [False, True]
    assert time.monotonic() - began < 200


def test_a_teacher_of_the_same_pictures_is_used_whatever_its_classes_were_called(cached, tmp_path):
    x, y = torch.rand(200, 1, 8, 8), torch.arange(200) % 10
    arrays = {"train_x": x[:100], "train_y": y[:100], "heldout_x": x[100:], "heldout_y": y[100:]}
    settings = ["data=folder", f"data.path={tmp_path / 'set'}", "max_steps=2", "evaluation=none"]
    for seed, word in ((0, "c"), (1, "digit ")):
        write_arrays(tmp_path / "set", arrays, "mine", 10, "made", [f"{word}{k}" for k in range(10)])
        answer = train(cached, *settings, f"seed={seed}", f"name=of_{seed}")
        assert answer.code == 0, answer.said
        assert ("Training the teacher" in answer.out) is (seed == 0)
        assert read_checkpoint(only(cached / f"of_{seed}"))["manifest"]["class_names"][3] == f"{word}3"
