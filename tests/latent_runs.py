"""The smallest training on latents: a set of many small shards, and settings that fit it."""

from pathlib import Path

from commands import decm

CLASSES, SIDE = 10, 8
SETTINGS = [
    "experiment=decm_imagenet",
    "logger=csv",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.compile=false",
    "trainer.log_every=1",
    "trainer.checkpoint_every=2",
    "teacher=none",
    "method=fm",
    "network.in_channels=4",
    f"network.input_size={SIDE}",
    "network.patch_size=2",
    "network.hidden_size=32",
    "network.depth=1",
    "network.num_heads=2",
    f"network.num_classes={CLASSES}",
    "batch_size=8",
    "accumulate=1",
    "max_steps=40",
    "snapshots.every=0",
    "evaluation.protocol.autoencoder.kind=projection",
    "evaluation.protocol.autoencoder.path=null",
    "evaluation.protocol.reference=null",
    "evaluation.protocol.num_reference=4",
    "evaluation.protocol.features=random_small",
    "evaluation.protocol.weights=null",
    "evaluation.protocol.keep=4",
    "evaluation.protocol.spatial=false",
    "evaluation.nfe=[1]",
    "evaluation.num_samples=4",
    "evaluation.every=0",
    "evaluation.preview_every=0",
    "report=false",
]


def synthetic_set(folder: Path, num: int = 256) -> Path:
    """16 shards of 2 records of 8 latents (256 samples: 32 steps an epoch)."""
    shape = f"shape=[4,{SIDE},{SIDE}]"
    answer = decm("latents", "synth", f"out={folder}", f"num={num}", shape, "record_size=8", "shard_records=2")
    assert answer.code == 0, answer.said
    return folder
