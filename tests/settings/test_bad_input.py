"""A user's mistake: one clear sentence, exit code 2, no stack trace; with debug=true there is one."""

import contextlib
import ctypes
import os
import pickle

import pytest
import torch

from commands import NO_TEACHER, RING, TINY, decm, train

PAST_PERMISSIONS = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: what lets root write and read all files
CAPABILITY_VERSION_3 = 0x20080522


def assert_one_sentence(answer, *said):
    """Exit code 2 and one line that says all of `said`."""
    assert answer.code == 2, answer.said
    assert "Traceback" not in answer.said
    (line,) = [line for line in answer.err.splitlines() if line.startswith("decm: ")]
    assert [words for words in said if words not in line] == []
    assert answer.err.strip() == line


@contextlib.contextmanager
def ordinary_permissions():
    """This thread may not write or read what permissions forbid, even as root."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    effective = data[0]
    data[0] &= ~PAST_PERMISSIONS
    assert libc.capset(header, data) == 0
    try:
        yield
    finally:
        data[0] = effective
        assert libc.capset(header, data) == 0


class Malicious:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("path", ["nowhere.ckpt", "nowhere/run"])
def test_a_teacher_that_is_missing(cached, path):
    answer = train(cached, "teacher=checkpoint", f"teacher.path={cached / path}")
    assert_one_sentence(answer, path, "does not exist", "a run folder or a .ckpt file")


def test_a_run_folder_without_a_checkpoint_is_no_teacher(cached):
    answer = train(cached, "teacher=checkpoint", f"teacher.path={cached}")
    assert_one_sentence(answer, "has no checkpoints/last.ckpt")


def test_a_teacher_without_a_path(cached):
    assert_one_sentence(train(cached, "teacher=checkpoint"), "teacher.path=<a run folder or a checkpoint>")


def test_a_teacher_of_another_width(cached, finished):
    answer = train(cached, "teacher=checkpoint", f"teacher.path={finished.teacher}", "network.hidden_size=36")
    assert_one_sentence(
        answer, str(finished.teacher), "does not fit the network", "(24", "expected (36", "Set `network`"
    )


def test_a_teacher_of_another_data_set(cached, finished):
    answer = train(cached, "teacher=checkpoint", f"teacher.path={finished.teacher}", settings=[*TINY, *RING])
    assert_one_sentence(answer, "states (1, 8, 8) and 10 classes", "(2, 1, 1) and 0", "of the same data")


def test_a_teacher_that_is_no_checkpoint(cached):
    for name, content in (("text.ckpt", b"hello"), ("empty.ckpt", b""), ("binary.ckpt", bytes(range(256)))):
        (cached / name).write_bytes(content)
        answer = train(cached, "teacher=checkpoint", f"teacher.path={cached / name}")
        assert_one_sentence(answer, name, "is not a checkpoint of decm, or it is damaged")


def test_a_teacher_from_another_program(cached):
    torch.save({"model": {"weight": torch.zeros(2)}}, cached / "other.ckpt")
    answer = train(cached, "teacher=checkpoint", f"teacher.path={cached / 'other.ckpt'}")
    assert_one_sentence(answer, "other.ckpt", "decm did not write it")


@pytest.mark.parametrize("save", [lambda thing, path: path.write_bytes(pickle.dumps(thing)), torch.save])
def test_a_malicious_pickle_is_refused_and_not_run(cached, save):
    trace = cached / "owned"
    save({"decm_config": Malicious(trace), "state_dict": {}}, cached / "malicious.ckpt")
    answer = train(cached, "teacher=checkpoint", f"teacher.path={cached / 'malicious.ckpt'}")
    assert_one_sentence(answer, "malicious.ckpt is not a checkpoint of decm")
    assert not trace.exists()
    with (cached / "malicious.ckpt").open("rb") as file:  # the negative control: it is malicious
        if save is not torch.save:
            pickle.load(file)
            assert trace.exists()


@pytest.mark.parametrize("labels", ["[10]", "[0,-1]", "[3,99,4]"])
def test_labels_out_of_range(finished, tmp_path, labels):
    answer = decm("sample", f"checkpoint={finished.folder}", f"labels={labels}", f"out={tmp_path / 'a.png'}")
    assert_one_sentence(answer, "classes 0 to 9")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("nfe", [0, -1, 1001])
def test_steps_out_of_range(finished, cached, tmp_path, nfe):
    of, picture = f"checkpoint={finished.folder}", f"out={tmp_path / 'a.png'}"
    assert_one_sentence(decm("sample", of, f"nfe={nfe}", picture), "nfe=", str(nfe))
    assert_one_sentence(decm("evaluate", of, f"nfe=[{nfe}]"), "nfe=", str(nfe))
    assert_one_sentence(decm("evaluate", of, f"nfe=[1,{nfe}]"), "nfe=", str(nfe))
    assert not (finished.folder / "samples_cache").exists()
    assert_one_sentence(train(cached, f"evaluation.nfe=[1,{nfe}]"), "nfe=", str(nfe))
    assert [path.name for path in cached.iterdir()] == ["cache"]  # nothing was trained before it was told


def test_a_sampler_that_cannot_take_the_steps(finished, cached, tmp_path):
    sample = ["sample", f"checkpoint={finished.folder}", f"out={tmp_path / 'a.png'}", "nfe=3"]
    assert_one_sentence(decm(*sample, "sampler=heun"), "nfe=3 with heun", "even number")
    assert_one_sentence(decm(*sample, "sampler=magic"), "sampler='magic' is unknown", "euler")
    assert_one_sentence(train(cached, "evaluation.nfe=[3]", "+evaluation.samplers={3: heun}"), "nfe=3 with heun")


def test_a_model_that_is_missing(tmp_path):
    for verb in ("sample", "evaluate"):
        assert_one_sentence(decm(verb, f"checkpoint={tmp_path / 'none'}"), "none", "does not exist")


def test_a_data_directory_without_a_manifest(cached, tmp_path):
    (tmp_path / "data").mkdir()
    answer = train(cached, "data=folder", f"data.path={tmp_path / 'data'}")
    assert_one_sentence(answer, "has no manifest.json", "write_arrays")
    answer = train(cached, "data=folder", f"data.path={tmp_path / 'nowhere'}")
    assert_one_sentence(answer, "does not exist", "data.path")


def test_data_that_do_not_fit_the_network(cached):
    assert_one_sentence(train(cached, "data=ring8"), "(2, 1, 1) and 0 classes", "Choose another `network`")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["accumulate=3"], "batch_size=16"),
        (["batch_size=0"], "batch_size=0"),
        (["accumulate=0"], "accumulate=0; expected 1 or more"),
        (["max_steps=0"], "max_steps=0; expected 1 or more"),
        (["label_drop=1.5"], "label_drop=1.5; expected a share"),
        (["evaluation.nfe=[]"], "evaluation.nfe is empty"),
        (["evaluation.num_samples=1"], "evaluation.num_samples=1; expected 2 or more"),
        (["method.consistency.objective.form=round"], "form='round' of the consistency loss is unknown"),
        (["method.noise_to_noisy.fraction=0"], "Segment noise_to_noisy: every=1, fraction=0.0"),
        (["jvp=magic"], "jvp='magic' is not an engine"),
        (["ema.kind=mean"], "kind='mean'"),
        (["network.end_embedding=none"], "end_embedding='none' is unknown"),
        (["teacher.guidance.scale=0.5"], "scale=0.5"),
        (["teacher=exact"], "needs a 2-D mixture"),
        (["teacher=none"], "Choose a teacher"),
        (["logger.kind=paper"], "logger.kind='paper' is unknown"),
        (["resume=nowhere"], "resume=nowhere is not a run folder with these settings"),
        (["trainer.precision=3"], "trainer.precision=3"),
        (["evaluation.num_samples=3"], "evaluation.num_samples=3; expected 4 or more"),
        (["evaluation.every=2", "evaluation.every_num_samples=2"], "evaluation.every_num_samples=2"),
        (["evaluation.every_nfe=[]"], "evaluation.every_nfe is empty"),
        (["evaluation.preview_every=-1"], "evaluation.preview_every=-1"),
        (["evaluation=images", "evaluation.protocol.reference=no.npz"], "no.npz"),
        (["data=folder", "data.path=no_set"], "no_set"),
        (["warm_start=no.ckpt"], "'no.ckpt' does not exist"),
        (["teacher=checkpoint", "teacher.path=no_run"], "no_run does not exist"),
        (["teacher.experiment=no_experiment"], "teacher.experiment=no_experiment is not"),
        (["teacher.experiment=decm_2d"], "needs a 2-D mixture"),
        (["optimizer.betas=[2.0,0.9]"], "beta"),
        (["guard.patience=0"], "guard.patience=0"),
        (["snapshots.every=2", "snapshots.sigma_rels=[9.0]"], "9.0"),
        (["method=fm", "method.instantaneous.every=2"], "acts at every step"),
        (["trainer.devices=3", "trainer.strategy=ddp"], "3 devices"),
        (["trainer.devices=2", "trainer.strategy=fsdp", "method.noise_to_noisy.fraction=0.01"], "fewer than the 2"),
        (["trainer.accelerator=abacus"], "abacus"),
        (["logger=wandb", "logger.mode=sometimes"], "logger.mode='sometimes'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_a_folder_is_made(cached, overrides, said):
    """Neither of the run nor of its teacher."""
    assert_one_sentence(train(cached, *overrides), said)
    assert [path.name for path in cached.iterdir()] == ["cache"]


def test_a_batch_that_does_not_divide_among_devices():
    """Told by the loader, which knows the number of devices: tests/data/test_loader.py."""
    answer = train("unused", "accumulate=5", "batch_size=12")
    assert_one_sentence(answer, "batch_size=12", "1 devices x 5 micro-batches", "Choose a multiple of 5")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_accelerator_that_is_not_there(runs):
    assert_one_sentence(train(runs, "trainer=gpu"), "gpu")


def test_an_objective_without_segments(cached):
    overrides = [f"~method.{name}" for name in ("instantaneous", "consistency", "noise_to_noisy")]
    assert_one_sentence(train(cached, *overrides), "`method` has no segment")


def test_a_run_directory_that_cannot_be_written(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with ordinary_permissions():
        answer = train(closed)
        assert_one_sentence(answer, str(closed), "cannot be written", "Permission denied", "Set runs=")
    assert list(closed.iterdir()) == []


def test_a_run_directory_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("a file")
    assert_one_sentence(train(tmp_path / "file"), "cannot be written", "Set runs=")


@pytest.mark.parametrize("verb", ["fly", "Train", "tran"])
def test_an_unknown_verb(verb):
    assert_one_sentence(decm(verb), f"unknown verb '{verb}'", "train, evaluate, sample")


def test_a_stack_trace_for_those_who_ask(cached, finished, tmp_path):
    """The same mistakes with debug=true."""
    missing = ["teacher=checkpoint", "teacher.path=nowhere"]
    for answer in (
        train(cached, *missing, "debug=true"),
        decm("sample", f"checkpoint={finished.folder}", "nfe=0", f"out={tmp_path / 'a.png'}", "debug=true"),
        train(cached, *NO_TEACHER, "method.instantaneous.every=0", "debug=true"),
    ):
        assert answer.code == 2
        assert "Traceback" in answer.err
        assert "ValueError" in answer.err
    assert "Traceback" not in train(cached, *missing).err
