"""What is measured: a part of the training step, an engine, and how it runs, on a network of some size."""

from dataclasses import dataclass
from typing import Any

SMALL = ("network.hidden_size=384", "network.depth=4", "network.num_heads=6")  # of the CPU set
NETWORKS = {  # Hydra overrides of the experiment
    "width 384, depth 4": ("network=lightningdit_b_1", *SMALL),
    "width 192, depth 4": ("network=lightningdit_b_1", *SMALL, "network.hidden_size=192", "network.num_heads=3"),
    "B/1": ("network=lightningdit_b_1",),
    "XL/1": ("network=lightningdit_xl_1",),
}
JOINT, PLAIN = "joint", "plain"  # besides the engines of FlowMap: the baseline, and no tangent at all (the floor)


@dataclass(frozen=True)
class Case:
    """`what`: the consistency branch alone, or the whole step. `precision`: float32, bf16 (autocast, as under ddp),
    cast (parameters but those of the embeddings of times in bf16, as FSDP2 has them while they are used).
    """

    what: str
    engine: str
    compiled: bool = False
    checkpointed: bool = False
    precision: str = "float32"
    network: str = "width 384, depth 4"
    batch: int = 4

    @property
    def variant(self) -> str:
        """How it runs, in words."""
        how = [self.engine.replace("_", " "), "compiled" if self.compiled else "eager"]
        return ", ".join([*how, *(["checkpointed"] if self.checkpointed else [])])

    @property
    def recommended(self) -> bool:
        return (self.engine, self.compiled, self.checkpointed) == ("dual", True, False)


def variants(what: str, kinds: str, **common: Any) -> list[Case]:
    """Cases from words such as `dual+compiled split+compiled+checkpointed`, the joint way first."""
    words = (kind.split("+") for kind in [JOINT, *kinds.split()])
    return [Case(what, engine, "compiled" in how, "checkpointed" in how, **common) for engine, *how in words]


FEW = "dual+compiled split+compiled+checkpointed"
SOME = "dual+compiled split+compiled split+compiled+checkpointed finite_difference+compiled"
MOST = f"{SOME} dual split {PLAIN}+compiled"
ALL = f"{MOST} split+checkpointed finite_difference"


def cpu_groups() -> list[list[Case]]:
    """Groups of cases; each is timed in turns within one process."""
    return [
        variants("branch", MOST),
        variants("step", FEW),
        variants("branch", "dual+compiled", network="width 192, depth 4"),
    ]


def short_gpu_groups() -> list[list[Case]]:
    """XL/1 in bf16 at one batch: what docs/speed.md compares with its bars."""
    common = {"precision": "bf16", "network": "XL/1", "batch": 32}
    return [variants("branch", SOME, **common), variants("step", FEW, **common)]


def gpu_groups() -> list[list[Case]]:
    """XL/1 at growing batches in bf16, then one batch in float32, and B/1."""
    common = {"precision": "bf16", "network": "XL/1"}
    groups = [variants(what, ALL, batch=16, **common) for what in ("branch", "step")]
    for batch in (32, 64, 128):
        groups += [variants(what, SOME, batch=batch, **common) for what in ("branch", "step")]
    groups.append(variants("branch", SOME, network="XL/1", batch=16))
    return [*groups, variants("step", SOME, precision="bf16", network="B/1", batch=64)]
