"""`decm latents` import, check and synth, from the command line; a mistake is told in one sentence."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from decm.cli.latents import task
from decm.data.latents import LatentDataset
from decm.data.manifest import read_manifest
from decm.settings.composition import compose
from forked import decm_beside
from latent_sets import npy, stored, write_tar


def decm(*words, **more):
    return decm_beside("latents", *words, **more).answer()


def test_synth_check_and_train_meet(tmp_path):
    out = tmp_path / "made"
    task(compose("latents", ["action=synth", f"out={out}", "num=40", "shape=[2,4,4]", "record_size=8"]))
    task(compose("latents", ["action=check", f"path={out}"]))
    assert read_manifest(out).extra["synthetic"] is True
    dataset = LatentDataset(out, flip=True)
    assert tuple(dataset.batch(0, torch.arange(80))[0].shape) == (80, 2, 4, 4)
    with (out / "shard-000000.tar").open("r+b") as file:
        file.seek(4000)
        file.write(b"\xff\xff\xff")
    with pytest.raises(ValueError, match=r"SHA-256 differs"):
        task(compose("latents", ["action=check", f"path={out}"]))


def test_tar_shards_of_latents_are_imported_as_they_lie(tmp_path):
    files, rng = {}, np.random.default_rng(0)
    for i in range(5):
        files[f"{i}.latent.npy"] = npy(rng.normal(size=(2, 4, 4)).astype(np.float16))
        files[f"{i}.cls"] = b"%d" % (i % 3)
    write_tar(tmp_path / "a.tar", files)
    with pytest.raises(ValueError, match=r"taken as they lie: set out="):
        task(compose("latents", ["action=import", f"source={tmp_path}", "out=elsewhere"]))
    task(compose("latents", ["action=import", f"source={tmp_path}", f"out={tmp_path}"]))
    dataset = LatentDataset(tmp_path)
    assert (len(dataset), dataset.manifest.num_classes) == (5, 3)


def test_import_takes_lightningdits_shards(tmp_path):
    (tmp_path / "source").mkdir()
    x = torch.randn(12, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    save_file(
        {"latents": x, "latents_flip": x.flip(-1).contiguous(), "labels": torch.arange(12) % 4},
        tmp_path / "source" / "latents_rank00_shard000.safetensors",
    )
    out = tmp_path / "set"
    task(compose("latents", ["action=import", f"source={tmp_path / 'source'}", f"out={out}", "num_classes=10"]))
    latents, flipped, labels = stored(out)
    assert latents.tobytes() == x.numpy().tobytes()
    assert flipped.tobytes() == x.flip(-1).numpy().tobytes()
    assert labels.tolist() == [i % 4 for i in range(12)]
    assert read_manifest(out).num_classes == 10


def test_the_verb_takes_its_action_as_a_word_and_tells_a_mistake_in_one_sentence(tmp_path):
    out = tmp_path / "made"
    good = decm("synth", f"out={out}", "num=8", "shape=[2,4,4]")
    assert (good.code, good.err) == (0, "")
    assert f"8 latents of (2, 4, 4), 10 classes, 1 shards. Train on them with data=latents data.path={out}" in good.out
    for words, message in (
        (["bake"], "unknown `decm latents bake`; expected one of encode, import, check, synth."),
        (["check", f"path={tmp_path}"], "`decm latents encode"),
        (["check", f"path={out}", "num=3"], "`decm latents check` ignores num."),
    ):
        bad = decm(*words)
        assert (bad.code, bad.out) == (2, "")
        assert message in bad.err
        assert "Traceback" not in bad.err


def test_data_latents_composes_and_a_network_of_other_channels_is_refused(tmp_path):
    from decm.experiment.build import build_dataset

    task(compose("latents", ["action=synth", f"out={tmp_path / 'made'}", "num=8", "shape=[2,8,8]"]))
    cfg = compose("train", ["data=latents", f"data.path={tmp_path / 'made'}", "network.in_channels=2"])
    assert len(build_dataset(cfg)) == 8  # type: ignore[arg-type]
    cfg.network.in_channels = 4
    with pytest.raises(ValueError, match=r"network expects \(4, 8, 8\).*`decm latents encode`"):
        build_dataset(cfg)
    cfg = compose(
        "train", ["data=latents_synth", f"runs={tmp_path}", "data.num=8", "data.shape=[2,8,8]", "network.in_channels=2"]
    )
    assert len(build_dataset(cfg)) == 8  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["data.flips=true", "data.on_corrupt=[1]", "data.path=null"])
def test_a_data_setting_of_another_name_or_type_does_not_compose(wrong):
    from hydra.errors import ConfigCompositionException

    with pytest.raises((ConfigCompositionException, ValueError), match=wrong.split("=")[0].replace(".", r"\.")):
        compose("train", ["data=latents", "data.path=a", wrong])
