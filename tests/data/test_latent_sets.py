"""Making sets: the import keeps every bit, ranks and restarts make the same bytes, the check finds what is wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from decm.data.index import index_path, read_index
from decm.data.latents import LatentDataset
from decm.data.making import latent_sets
from decm.data.making.latent_check import check_set
from decm.data.making.latent_sets import finish_set, write_set
from decm.data.making.latent_sources import LightningDiTLatents
from decm.data.manifest import read_manifest
from decm.data.shards import ShardRecords
from latent_sets import CLASSES, SHAPE, Numbered, contents, flip_byte, numbered_plan, numbered_set

SIZES = (20, 13, 7)


def ignore(samples: int) -> None:
    """Progress that nobody watches."""


def lightningdit(folder, dtype=torch.float16, flip=True, stats=True):
    """(latents, flipped copies, labels) of shards as LightningDiT's extraction writes them."""
    g = torch.Generator().manual_seed(0)
    n = sum(SIZES)
    x = (torch.randn(n, *SHAPE, generator=g) * 3 + 1).to(dtype)
    x[0, 0, 0, 0], x[1, 0, 0, 1] = -0.0, 6e-8 if dtype == torch.float16 else 1e-42  # signs and subnormals survive
    flipped, labels = x.flip(-1).contiguous(), torch.randint(CLASSES, (n,), generator=g)
    labels[0] = CLASSES - 1
    folder.mkdir()
    for k, rows in enumerate(torch.arange(n).split(SIZES)):
        tensors = {"latents": x[rows], "labels": labels[rows]} | ({"latents_flip": flipped[rows]} if flip else {})
        save_file(
            {key: value.contiguous() for key, value in tensors.items()},
            folder / f"latents_rank00_shard{k:03d}.safetensors",
        )
    if stats:
        wide = x.double()
        torch.save(
            {"mean": wide.mean((0, 2, 3), keepdim=True).float(), "std": wide.std((0, 2, 3), keepdim=True).float()},
            folder / "latents_stats.pt",
        )
    return x.numpy(), flipped.numpy(), labels.numpy()


def imported(source, folder):
    latents = LightningDiTLatents(source)
    plan = replace(
        numbered_plan(len(latents.labels), latents.flip), dtype=latents.dtype, shape=latents.shape, name="imported"
    )
    write_set(folder, plan, latents, 0, 1, ignore)
    return plan, finish_set(folder, plan, latents.statistics())


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_import_round_trips_bit_for_bit(tmp_path, dtype, flip):
    x, flipped, labels = lightningdit(tmp_path / "source", dtype, flip)
    plan, manifest = imported(tmp_path / "source", tmp_path / "set")
    records = ShardRecords(sorted((tmp_path / "set").glob("*.tar")))
    back = np.argsort(plan.order())
    stored = np.concatenate([records.read(r) for r in range(len(records))])[back]
    assert stored.dtype == x.dtype
    assert stored.tobytes() == x.tobytes()
    assert np.array_equal(records.labels[back], labels)
    if flip:
        mirrored = np.concatenate([records.read(r, flipped=True) for r in range(len(records))])[back]
        assert mirrored.tobytes() == flipped.tobytes()
    stats = torch.load(tmp_path / "source" / "latents_stats.pt", weights_only=True)
    for name in ("mean", "std"):
        assert torch.equal(torch.tensor(getattr(manifest, name)), stats[name].flatten())
    assert not np.array_equal(plan.order(), np.arange(len(x)))  # permuted over the whole set
    assert check_set(tmp_path / "set", ignore)["samples"] == 40


def test_without_statistics_the_sets_own_are_taken(tmp_path):
    x, _, _ = lightningdit(tmp_path / "source", stats=False)
    _, manifest = imported(tmp_path / "source", tmp_path / "set")
    assert np.allclose(manifest.mean, x.astype(float).mean((0, 2, 3)), rtol=1e-12)
    assert np.allclose(manifest.std, x.astype(float).std((0, 2, 3)), rtol=1e-12)
    assert manifest.extra["statistics"] == "whole set"


def test_imports_of_something_else_say_what_is_wrong(tmp_path):
    source = tmp_path / "source"
    with pytest.raises(ValueError, match=r"no \*.safetensors; expected LightningDiT's"):
        LightningDiTLatents(tmp_path)
    lightningdit(source)
    file = source / "latents_rank00_shard001.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"shard001.safetensors is no intact safetensors file"):
        LightningDiTLatents(source)
    save_file({"latents": torch.zeros(3, *SHAPE)}, file)
    with pytest.raises(ValueError, match=r"shard001.safetensors has no labels"):
        LightningDiTLatents(source)
    save_file({"latents": torch.zeros(3, 9, 4, 4, dtype=torch.float16), "labels": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="expected one kind"):
        LightningDiTLatents(source)
    save_file(
        {"latents": torch.zeros(3, *SHAPE), "latents_flip": torch.zeros(3, *SHAPE), "labels": torch.zeros(4)}, file
    )
    with pytest.raises(ValueError, match=r"latents is \[3, 2, 4, 4\], with 4 labels"):
        LightningDiTLatents(source)


@pytest.mark.parametrize("stats", [{"mean": torch.zeros(1, 9, 1, 1), "std": torch.ones(1, 9, 1, 1)}, [print], {}])
def test_wrong_statistics_are_refused_and_nothing_in_them_runs(tmp_path, stats):
    lightningdit(tmp_path / "source")
    torch.save(stats, tmp_path / "source" / "latents_stats.pt")
    with pytest.raises(ValueError, match=r"latents_stats.pt (has 9 means|does not hold mean and std)"):
        LightningDiTLatents(tmp_path / "source").statistics()


# ranks and restarts


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_any_number_of_ranks_makes_the_same_files_and_the_last_the_manifest(tmp_path, world_size):
    numbered_set(tmp_path / "one")
    plan, manifests = numbered_plan(), []
    for rank in range(world_size):
        write_set(tmp_path / "many", plan, Numbered(), rank, world_size, ignore)
        manifests.append(finish_set(tmp_path / "many", plan))
    assert [m is None for m in manifests[: min(3, world_size)]] == [True] * (min(3, world_size) - 1) + [False]
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_a_restart_keeps_what_is_finished_and_makes_the_rest_again(tmp_path, monkeypatch):
    one, plan = contents(numbered_set(tmp_path / "one")), numbered_plan()
    folder, written = numbered_set(tmp_path / "again"), []
    (folder / "shard-000000.tar").rename(folder / "shard-000000.tar.part")  # killed while it was written
    index_path(folder / "shard-000001.tar").unlink()  # an index that is not there yet
    flip_byte(folder / "shard-000002.tar", 3000)
    (folder / "manifest.json").unlink()
    write = latent_sets.write_shard
    monkeypatch.setattr(latent_sets, "write_shard", lambda path, *a: written.append(path.name) or write(path, *a))
    assert write_set(folder, plan, Numbered(), 0, 1, ignore) == []
    assert written == [f"shard-{k:06d}.tar" for k in range(3)]
    assert write_set(folder, plan, Numbered(), 0, 1, ignore) == written
    assert len(written) == 3
    finish_set(folder, plan)
    assert contents(folder) == one


def test_a_folder_of_other_settings_is_not_mixed(tmp_path):
    folder = numbered_set(tmp_path / "set")
    with pytest.raises(ValueError, match=r"other settings \(samples, seed differ; see plan.json\)"):
        write_set(folder, replace(numbered_plan(60), seed=1), Numbered(), 0, 1, ignore)
    (folder / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"shards without a plan.json"):
        write_set(folder, numbered_plan(), Numbered(), 0, 1, ignore)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float16"}, r"expected \(2, 4, 4\), float16"),
        ({"num_classes": 2}, r"label 2; expected 0 to 1 \(num_classes\)"),
        ({"samples": 0}, "expected at least one"),
    ],
)
def test_samples_that_do_not_fit_the_plan_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_set(tmp_path / "set", replace(numbered_plan(), **change), Numbered(), 0, 1, ignore)


def test_latents_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Numbered, "latents", lambda self, rows: np.full((len(rows), *SHAPE), np.inf, np.float32))
    with pytest.raises(ValueError, match="not finite in float32"):
        numbered_set(tmp_path / "set")


# check


def test_the_check_counts_a_set_that_is_in_order(tmp_path):
    facts = check_set(numbered_set(tmp_path / "set"), ignore)
    assert (facts["samples"], facts["shards"], facts["classes"]) == (50, 3, CLASSES)
    assert facts["samples a class"] == "16 to 17"


def test_the_check_names_everything_that_is_wrong(tmp_path):
    folder = numbered_set(tmp_path / "set")
    manifest = read_manifest(folder)
    offset = int(read_index(folder / "shard-000001.tar").records["latents"][1])
    flip_byte(folder / "shard-000001.tar", offset + 4)
    replace(manifest, num_classes=2, mean=(0.0, 0.0)).write(folder)
    with pytest.raises(ValueError, match=r"not in order") as caught:
        check_set(folder, ignore)
    lines = str(caught.value).splitlines()[1:]
    assert f"shard-000001.tar is not what was written (SHA-256 differs): record 1 at byte {offset}" in lines[0]
    assert "labels 0 to 2, the manifest says 2 classes" in lines[1]
    assert "mean and std of the latents are" in lines[2]
    assert len(lines) == 3


def test_a_set_that_was_written_trains(tmp_path):
    x, y = LatentDataset(numbered_set(tmp_path / "set"), flip=True).batch(0, torch.arange(8))
    assert (tuple(x.shape), tuple(y.shape)) == ((8, *SHAPE), (8,))
