"""ImageNet's path, small: released weights as a teacher, latents as pictures, dry runs, and `decm evaluate` again."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from commands import decm, metrics, only, results
from decm.data.making.latent_sources import synthetic_latents
from decm.experiment.build import build_network
from decm.experiment.dry_run import forward_equivalents
from decm.generator.decode import PROJECTED, Decoded, Projection, build_decoder
from decm.networks.autoencoder import Autoencoder
from decm.protocols.images import stored_states
from decm.settings.composition import compose
from helpers import randomize_parameters

SMOKE = ["experiment=decm_imagenet_smoke", "logger=csv"]
FAST = [
    *SMOKE,
    "max_steps=3",
    "batch_size=8",
    "optimizer.lr=1e-4",
    "network.hidden_size=32",
    "network.depth=1",
    "data.num=64",
    "evaluation.nfe=[1]",
    "evaluation.num_samples=4",
    "evaluation.every=0",
    "evaluation.preview_every=0",
    "evaluation.protocol.num_reference=8",
    "snapshots.every=1",
]


def refused(answer, *said):
    assert answer.code == 2, answer.said
    assert "Traceback" not in answer.said
    assert [words for words in said if words not in answer.err] == []


def weights_file(folder, overrides=(), **kwargs):
    """A one-time network of the smoke's size, under a released file's name for its blocks and labels."""
    cfg = compose("train", [*FAST, *overrides])
    network = randomize_parameters(build_network(cfg.network, 5, two_times=False), 5)
    state = {key.replace("adaln.", "adaLN_modulation."): value for key, value in network.state_dict().items()}
    save_file(state, folder / "teacher.safetensors")
    return folder / "teacher.safetensors", network


@pytest.fixture(scope="module")
def from_weights(tmp_path_factory):
    """(runs, run folder, the teacher's network, what was said) of a student of released weights, after three steps."""
    root = tmp_path_factory.mktemp("imagenet")
    path, network = weights_file(root)
    answer = decm("train", *FAST, f"runs={root / 'runs'}", "teacher=weights", f"teacher.path={path}")
    assert answer.code == 0, answer.said
    return root / "runs", only(root / "runs" / "decm_imagenet_smoke"), network, answer


@pytest.mark.slow
def test_a_released_file_is_the_teacher_and_the_student_begins_with_it(from_weights):
    _, run, network, answer = from_weights
    assert "Teacher: Loaded" in answer.out
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in network.named_parameters():  # three steps of 1e-4
        assert (state[f"student.{name}"] - value).abs().max() < 2e-3, name
    assert any(key.startswith("student.s_embedder.") for key in state)
    assert results(run)["teacher_reused"] is True


def test_every_table_says_that_the_pictures_are_projections_and_the_features_random(from_weights):
    table = (from_weights[1] / "table.md").read_text()
    assert PROJECTED in table
    assert "RANDOM Inception weights" in table


def test_the_cost_of_a_dry_run_is_the_cost_that_the_run_counts(from_weights):
    """Up to the rows outside of the guided interval, which the run counts as they are drawn."""
    _, run, _, _ = from_weights
    cfg = compose("train", [*FAST, "teacher=weights", "teacher.path=x"])
    expected = forward_equivalents(cfg, build_network(cfg.network, 0))
    assert results(run)["forward_equivalents"] == pytest.approx(expected, rel=0.02)
    cfg.teacher.guidance.low = 0.5
    assert forward_equivalents(cfg, build_network(cfg.network, 0)) < 0.96 * expected


def test_a_dry_run_tells_sizes_and_leaves_nothing_behind(tmp_path):
    answer = decm("train", "experiment=decm_imagenet", "dry_run=true", f"runs={tmp_path / 'runs'}")
    assert answer.code == 0, answer.said
    for said in ("676,586,144", "312,785", "forward-equivalents", "checkpoint", "an estimate"):
        assert said in answer.out
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_size_or_nowhere_are_refused(tmp_path):
    path, _ = weights_file(tmp_path, ["network.hidden_size=48"])
    settings = [*FAST, f"runs={tmp_path / 'runs'}", "teacher=weights"]
    refused(decm("train", *settings, f"teacher.path={path}"), "does not fit the network", "expected")
    refused(decm("train", *settings, f"teacher.path={tmp_path}/no.pt"), "no.pt does not exist")


def evaluate(run, *overrides):
    """(answer, the newest evaluation's results)."""
    before = set(run.glob("evaluation_*.json"))
    answer = decm("evaluate", f"checkpoint={run}", *overrides)
    new = set(run.glob("evaluation_*.json")) - before
    return answer, json.loads(new.pop().read_text()) if new else None


def test_evaluating_again_gives_the_runs_figures_and_saves_adms_file(from_weights):
    _, run, _, _ = from_weights
    answer, again = evaluate(run, "nfe=[1]", "save=npz")
    assert answer.code == 0, answer.said
    assert again["student"] == results(run)["student"]
    assert "balanced" in again["labels"]
    with np.load(run / again["files"]["1"]) as file:
        assert (file["arr_0"].shape, file["arr_0"].dtype) == ((4, 16, 16, 3), np.uint8)
        assert file["arr_0"].std() > 1
    assert not (run / "samples_cache").exists()


def test_a_reconstructed_average_is_what_is_evaluated_where_asked(from_weights):
    _, run, _, _ = from_weights
    answer, other = evaluate(run, "nfe=[1]", "ema_sigma_rel=0.2")
    assert answer.code == 0, answer.said
    assert other["ema_sigma_rel"] == 0.2
    assert "sigma_rel 0.2" in answer.out
    assert other["student"] != results(run)["student"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["reference=nowhere.npz"], "do not exist"),
        (["features=foo"], "features='foo' is unknown"),
        (["features=inception"], "weights-inception-2015-12-05"),
        (["save=png"], "save='png'"),
        (["ema_sigma_rel=0.9"], "ema_sigma_rel=0.9"),
        (["num_samples=1"], "num_samples=1"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_name(from_weights, overrides, said):
    refused(evaluate(from_weights[1], "nfe=[1]", *overrides)[0], said)


def test_a_reference_without_mu_is_refused_with_what_it_holds(from_weights, tmp_path):
    np.savez(tmp_path / "bad.npz", sigma=np.eye(3))
    refused(evaluate(from_weights[1], f"reference={tmp_path / 'bad.npz'}")[0], "bad.npz holds sigma", "mu and sigma")


def test_two_processes_and_a_second_start_make_the_same_samples(from_weights, tmp_path):
    """Process 1 makes its batches and leaves; process 0 takes them, and makes what is missing."""
    from decm.evaluation.stored import StoredEvaluator
    from decm.flow.flow_map import FlowMap

    network = from_weights[2]
    made = []

    class Counted(FlowMap):
        def __call__(self, x, t, s, y):
            made.append(len(x))
            return super().__call__(x, t, s, y)

    def evaluator(rank, world_size, folder):
        what = {"judge": None, "shape": (32, 16, 16), "num_classes": 10, "seed": 3, "batch_size": 2, "identity": {}}
        return StoredEvaluator(**what, folder=tmp_path / folder, rank=rank, world_size=world_size)

    def samples(rank, world_size, folder):
        made.clear()
        return evaluator(rank, world_size, folder).samples(Counted(network), 1, 7, ["consistency"]), sum(made)

    alone, rows = samples(0, 1, "one")
    assert rows == 7
    assert samples(1, 2, "two")[1] == 3  # batches 1 and 3: two samples and one
    both, rows = samples(0, 2, "two")
    assert rows == 4
    assert torch.equal(both, alone)
    again, rows = samples(0, 1, "two")
    assert rows == 0
    assert torch.equal(again, alone)


def test_a_picture_is_an_affine_map_of_the_latent_until_it_clips():
    project = Projection(4)
    x = 0.5 * torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    base = project(torch.zeros_like(x)).float()
    assert base.unique().tolist() == [128]
    assert (project(x).float() - base + project(-x).float() - base).abs().max() <= 2
    assert (project(x).float() - base).abs().max() > 10


def test_latents_are_decoded_with_the_sets_own_statistics(tmp_path):
    """The pictures of the stored latents are the autoencoder's of the raw ones."""
    settings = {"channels": 32, "multipliers": [1, 2], "latent_channels": 4, "res_blocks": 1}
    torch.manual_seed(0)
    autoencoder = Autoencoder(**settings)
    state = {key: value.contiguous() for key, value in autoencoder.vae.state_dict().items()}
    save_file(state, tmp_path / "vae.safetensors")
    dataset = synthetic_latents(str(tmp_path / "set"), 64, [4, 4, 4], 3)
    args = {**settings, "attention": False, "scale": 1.0}
    given = {"kind": "f8d4", "path": tmp_path / "vae.safetensors", "args": args, "chunk": 2}
    decode = build_decoder(dataset.manifest, given)
    assert isinstance(decode, Decoded)
    raw = torch.from_numpy(dataset.records.read(0).astype("float32"))[:5]
    expected = ((autoencoder.decode(raw) + 1) * 127.5).round().clamp(0, 255)
    (states,), count = stored_states(dataset, num=5)
    assert count == 5
    assert (decode(states).float() - expected).abs().max() <= 1
    assert decode(states).shape == (5, 3, 8, 8)
    with pytest.raises(ValueError, match=r"autoencoder\.path is not set"):
        build_decoder(dataset.manifest, {**given, "path": None})
    other = synthetic_latents(str(tmp_path / "other"), 64, [8, 4, 4], 3)
    with pytest.raises(ValueError, match=r"latents of 4 channels, but data set 'other' has 8"):
        build_decoder(other.manifest, given)


def test_experiments_have_the_papers_numbers():
    cfg = compose("train", ["experiment=decm_imagenet"])
    assert (cfg.batch_size, cfg.max_steps, cfg.optimizer.lr) == (1024, math.ceil(250 * 1281167 / 1024), 1e-4)
    assert (list(cfg.optimizer.betas), cfg.optimizer.weight_decay, cfg.trainer.clip_norm) == ([0.9, 0.999], 0.0, 1.0)
    g = cfg.teacher.guidance
    assert (cfg.teacher.kind, g.scale, g.eta_rms, g.low) == ("weights", 1.75, 0.125, 0.125)
    n2n = cfg.method.noise_to_noisy
    assert (n2n.every, n2n.r_max, n2n.decay_steps) == (3, 0.1, 20_000)
    assert (cfg.method.consistency.objective.form, cfg.times, cfg.trainer.precision) == ("facm", None, "bf16-mixed")
    assert cfg.schedule._target_.endswith("warmup_constant")


@pytest.mark.slow
def test_the_smoke_runs_to_a_table_that_evaluate_reproduces_exactly(tmp_path):
    """With the small extractor: Inception takes a minute here, and .ci/run runs the smoke with it."""
    answer = decm("train", *SMOKE, "evaluation.protocol.features=random_small", f"runs={tmp_path}")
    assert answer.code == 0, answer.said
    run = only(tmp_path / "decm_imagenet_smoke")
    found = results(run)
    assert list(found["student"]) == list(found["teacher"]) == ["1", "2", "4", "50"]
    assert "| student |" in (run / "table.md").read_text()
    assert {path.name for path in (run / "previews").iterdir()} == {"step_000010.png", "step_000020.png"}
    assert len(list((run / "snapshots").iterdir())) == 8
    answer, again = evaluate(run)
    assert answer.code == 0, answer.said
    for key in ("student", "is", "kid", "precision", "recall", "floor", "reference", "samplers"):
        assert again[key] == found[key], key
    assert len(set(found["student"].values())) == len(set(found["teacher"].values())) == 4
    answer, in_loop = evaluate(run, "num_samples=4")
    assert answer.code == 0, answer.said
    logged = metrics(run)[20]
    assert {nfe: float(logged[f"fd/{nfe}"]) for nfe in found["student"]} == in_loop["student"]
    assert in_loop["student"] != found["student"]
