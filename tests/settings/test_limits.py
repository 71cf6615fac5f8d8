"""What a setting may be wherever it stands: seeds and counts, names of folders; threads, and a reader that has gone."""

import os
import subprocess
import threading

import numpy as np
import pytest
from omegaconf import OmegaConf

from commands import RING, TINY, command, decm, environment, in_a_process, only, results, train
from decm import Generator
from decm.runs.state import NOT_RUNS, all_runs
from decm.settings.composition import compose
from decm.settings.limits import check_limits, check_name

HUGE = 2**64
FAST = ["max_steps=2", "evaluation.nfe=[1]"]


@pytest.fixture(scope="module")
def composed():
    """The settings of a run, with every segment of digits."""
    return compose("train", [*TINY, "snapshots.every=2"])


@pytest.mark.parametrize("setting", ["seed", "evaluation.seed", "data.split_seed"])
def test_seeds_are_whole_numbers_of_63_bits(composed, setting):
    for value in (0, 2**63 - 1):
        check_limits(OmegaConf.merge(composed, OmegaConf.from_dotlist([f"{setting}={value}"])))
    for value, said in ((-1, "expected 0 or more"), (2**63, "or less"), (HUGE, "or less")):
        with pytest.raises(ValueError, match=rf"^{setting}={value}; .*{said}"):
            check_limits(OmegaConf.merge(composed, OmegaConf.from_dotlist([f"{setting}={value}"])))


@pytest.mark.parametrize(
    ("setting", "least"),
    [
        ("max_steps", 1),
        ("batch_size", 1),
        ("accumulate", 1),
        ("evaluation.num_samples", 1),
        ("trainer.keep", 0),
        ("evaluation.batch_size", 1),
        ("network.depth", 1),
        ("network.hidden_size", 1),
        ("data.heldout", 0),
        ("evaluation.every", 0),
        ("evaluation.preview_every", 0),
        ("evaluation.every_num_samples", 0),
        ("trainer.num_nodes", 1),
        ("guard.patience", 1),
        ("snapshots.every", 0),
        ("method.noise_to_noisy.every", 0),
    ],
)
def test_counts_have_their_least_and_most(composed, setting, least):
    for value in (least, 2**31 - 1):
        check_limits(OmegaConf.merge(composed, OmegaConf.from_dotlist([f"{setting}={value}"])))
    for value in (least - 1, -5, 2**31, HUGE):
        with pytest.raises(ValueError, match=rf"^{setting}={value}; expected"):
            check_limits(OmegaConf.merge(composed, OmegaConf.from_dotlist([f"{setting}={value}"])))


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("sample", ["seed=-1"]),
        ("sample", [f"seed={HUGE}"]),
        ("sample", ["rows=0"]),
        ("evaluate", [f"num_samples={HUGE}"]),
        ("evaluate", ["seed=-2"]),
        ("data", ["size=-8"]),
        ("data", [f"seed={HUGE}"]),
        ("reference", ["batch_size=-1"]),
        ("reference", ["keep=-1"]),
        ("latents", ["num=-1"]),
        ("latents", ["shape=[0,4,4]"]),
        ("latents", [f"seed={HUGE}"]),
    ],
)
def test_other_verbs_refuse_such_numbers_too(verb, words):
    check_limits(compose(verb))
    with pytest.raises(ValueError, match=rf"^{words[-1].split('=')[0]}=[-\d]+; expected"):
        check_limits(compose(verb, words))


@pytest.mark.parametrize("words", [[f"seed={HUGE}"], ["name=../x"], ["-m", "seed=0", "name=a/b"], ["name=''"]])
def test_they_are_refused_before_anything_is_made(tmp_path, words):
    answer = train(tmp_path / "deep" / "runs", *words)
    assert answer.code == 2, answer.said
    assert f"{words[-1].split('=')[0]}=" in answer.err
    assert "Traceback" not in answer.said
    assert list(tmp_path.iterdir()) == []


def test_the_largest_seed_is_one_that_a_run_can_have(cached):
    answer = train(cached, *RING, f"seed={2**63 - 1}", "max_steps=1", "evaluation.nfe=[1]")
    assert answer.code == 0, answer.said


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "..", ".", "", ".hidden", " a", "a\\b", *NOT_RUNS, "a\tb"])
def test_a_name_that_is_not_one_plain_folder_below_runs_is_refused(name):
    with pytest.raises(ValueError, match=r"^name="):
        check_name(name)


@pytest.mark.parametrize("name", ["smoke", "a b", "decm-1.5", "digits_é", "x..y"])
def test_a_plain_name_passes(name):
    check_name(name)


def test_an_experiment_that_is_not_there_is_one_sentence_for_doctor():
    answer = decm("doctor", "name=../x")
    assert answer.code == 2
    assert "../x" in answer.err
    assert "Traceback" not in answer.said


@pytest.mark.parametrize("subdir", ["a/b", "../x", ".."])
def test_a_job_that_would_lie_outside_of_its_sweep_is_refused(cached, subdir):
    answer = train(cached, "-m", "seed=0", *FAST, f"hydra.sweep.subdir={subdir}")
    assert answer.code == 2
    assert "hydra.sweep.subdir" in answer.err
    assert not list(cached.rglob("config.yaml"))


def test_runs_are_found_at_any_depth_and_a_loop_of_links_ends(tmp_path):
    """Where `hydra.sweep.dir` puts them, and through a link; not in a run, nor in what is no folder of runs."""
    found = ["a/1", "a/multirun/s/0", "deep/er/sweep/0", "0", "deep/er/sweep/é =1"]
    for place in (*found, "a/1/wandb/files", "a/checkpoints/x", "cache/x", ".hidden/x", "a/1/copy"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.yaml").write_text("name: a\n")
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    (tmp_path / "deep" / "link").symlink_to(tmp_path / "a" / "multirun")
    places = [str(folder.relative_to(tmp_path)) for folder in all_runs(tmp_path)]
    assert sorted(places) == sorted([*found, "deep/link/s/0"])
    assert decm("runs", f"runs={tmp_path}").out.count("unfinished") == len(places)


def in_a_thread(do):
    """What a function returns in a thread that is not the main one."""
    got = []
    thread = threading.Thread(target=lambda: got.append(do()))
    thread.start()
    thread.join(120)
    return got[0]


def test_a_run_a_sweep_and_a_generator_work_in_a_thread_that_is_not_the_main_one(runs):
    answer = in_a_thread(lambda: train(runs, *FAST))
    assert answer.code == 0, answer.said
    assert "Not in the main thread" in answer.out
    (run,) = (runs / "smoke").glob("2*")
    sweep = in_a_thread(lambda: train(runs, "-m", "seed=0", *FAST))
    assert sweep.code == 0, sweep.said
    assert results(only(runs / "smoke" / "multirun") / "0")["student"] == results(run)["student"]
    model = Generator.from_pretrained(run, device="cpu")
    inside = in_a_thread(lambda: Generator.from_pretrained(run, device="cpu")(labels=[1, 2]))
    np.testing.assert_array_equal(inside, model(labels=[1, 2]))


@pytest.mark.parametrize("words", [["--help"], ["runs", "--help"], ["clean"], ["train", "--cfg", "job"]], ids=" ".join)
def test_a_reader_that_has_gone_is_no_error(tmp_path, words):
    """As of `decm doctor | head -1`: nothing is said, and the exit code is that of a program that SIGPIPE ends."""
    ours, theirs = os.pipe()
    os.close(ours)
    more = [f"runs={tmp_path}"] if words == ["clean"] else []
    done = subprocess.run(command(*words, *more), env=environment(), stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, "")


def test_what_is_no_closed_reader_is_an_error_still(tmp_path):
    """A pipe of another kind that breaks within a verb."""
    broken = "import decm.cli.clean as c\ndef task(cfg): raise BrokenPipeError(32, 'Broken pipe')\nc.task = task"
    answer = in_a_process("clean", f"runs={tmp_path}", before=broken)
    assert answer.code == 2
    assert "Broken pipe" in answer.err


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.activation_checkpointing=true"], "set jvp=split"),
        (["trainer=fsdp", "trainer.precision=16-mixed"], "trainer.precision=16-mixed"),
        (["trainer.reshard=true"], "trainer=fsdp alone"),
        (["experiment=decm_2d", "trainer.compile=true"], "MLP has no blocks to compile"),
        (["jvp=duall"], "dual, split, finite_difference"),
        (["guard.rollbacks=-1"], "guard.rollbacks=-1"),
        (["launcher=joblib"], "add -m"),
    ],
)
def test_a_trainer_setting_that_cannot_take_effect_is_refused(tmp_path, overrides, said):
    answer = decm("train", "logger=csv", f"runs={tmp_path}", *overrides)
    assert answer.code == 2
    assert said in answer.err


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "setting",
    [
        "method.consistency.weight",
        "segments.noise_to_noisy.start",
        "segments.noise_to_noisy.end",
        "segments.instantaneous.cosine",
        "teacher.guidance.scale",
        "optimizer.lr",
        "ema.decay",
    ],
)
def test_no_setting_is_nan_or_infinite(setting, value):
    answer = decm("train", *TINY, f"{setting}={value}")
    assert answer.code == 2
    assert f"{setting}={value}; expected a finite number" in answer.err


def test_some_limits_may_be_infinite(composed):
    check_limits(OmegaConf.merge(composed, {"guard": {"spike": float("inf")}}))
    with pytest.raises(ValueError, match=r"guard\.spike=nan"):
        check_limits(OmegaConf.merge(composed, {"guard": {"spike": float("nan")}}))


def test_a_schedule_below_zero_is_refused_before_anything_is_made(tmp_path):
    answer = decm("train", *TINY, "schedule.final=-1", "schedule.warmup=0", f"runs={tmp_path / 'runs'}")
    assert answer.code == 2
    assert "it gives the factors 1, 0, " in answer.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["x" * 201, "é" * 101])
def test_a_name_that_is_too_long_for_a_folder_is_named_before_anything_is_made(tmp_path, name):
    answer = decm("train", *TINY, f"name={name}", f"runs={tmp_path / 'runs'}")
    assert answer.code == 2
    assert "bytes; expected 200 or fewer" in answer.err
    assert not (tmp_path / "runs").exists()
    check_name(name[: len(name) // 2])
