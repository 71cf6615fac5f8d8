"""Runs in seconds: a tiny data set, a tiny module with all segments, and a Trainer on one core."""

from pathlib import Path
from types import SimpleNamespace

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from decm.data.arrays import KEYS, ArrayDataset
from decm.data.datamodule import DataModule
from decm.data.manifest import Manifest
from decm.flow.velocity import GuidedVelocity
from decm.objectives.base import Batch
from decm.objectives.consistency import Consistency
from decm.objectives.flow_matching import FlowMatching
from decm.objectives.mean_flow import MeanFlow
from decm.objectives.noise_to_noisy import NoiseToNoisy
from decm.training.callbacks.method.trajectories import AnyLater, FromNoise, Instantaneous, ToData
from decm.training.module import DistillationModule, Recipe, Teacher
from helpers import CLASSES, random_labels, random_states, randomize_parameters, small_mlp

GLOBAL_BATCH, POINTS = 8, 20  # samples an optimizer step, samples in the set: epochs end within a batch


def tiny_set(shape=(2, 1, 1), num=POINTS, classes=CLASSES):
    """A data set of random states, whose held-out part is all 100."""
    arrays = (
        random_states(num, shape, dtype=torch.float32),
        random_labels(num, classes=classes),
        torch.full((4, *shape), 100.0),
        torch.zeros(4, dtype=torch.int64),
    )
    manifest = Manifest(
        name="tiny",
        shape=shape,
        num_classes=classes,
        mean=(0.0,) * shape[0],
        std=(1.0,) * shape[0],
        split={"train": num},
        content_hash="none",
        origin="here",
    )
    return ArrayDataset(dict(zip(KEYS, arrays, strict=True)), manifest)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)


def constant(step):
    return 1.0


def recipe(**changes):
    return Recipe(**{"seed": 0, "batch_size": GLOBAL_BATCH, "optimizer": adamw, "schedule": constant, **changes})


def teacher_of(net, scale=1.5, **guidance):
    return Teacher(GuidedVelocity(net, CLASSES, scale, **guidance), net)


def tiny_module(teacher=True, student=None, **changes):
    """A perceptron and its guided teacher.

    The end embedding is raw: the features of `difference` vanish at low frequencies, so that AdamW scales the rounding
    of those gradients up to its rate, and equal runs differ there.
    """
    student = student or randomize_parameters(small_mlp("raw"), seed=1)
    net = randomize_parameters(small_mlp(two_times=False), seed=2).requires_grad_(False) if teacher else None
    return DistillationModule(student, teacher_of(net) if net else None, recipe(**changes))


def all_segments(**n2n):
    """The four segments; two of them on a part of the rows."""
    return [
        Instantaneous("instantaneous", FlowMatching(cosine=0.5)),
        ToData("consistency", Consistency("tangent_normalized"), weight=0.7),
        FromNoise(name="noise_to_noisy", objective=NoiseToNoisy(1.0, 0.5), **{"fraction": 0.5, **n2n}),
        AnyLater(name="mean_flow", objective=MeanFlow(), fraction=0.25),
    ]


def anchor(module, dataset, index, dtype=torch.float32):
    """The anchor of samples `index` as the module draws it, in `dtype`."""
    index = torch.as_tensor(index)
    x, y = dataset.batch(module.recipe.seed, index)
    drawn = module.draw({"x": x, "y": y, "index": index})
    return Batch(drawn.x.to(dtype), drawn.z.to(dtype), drawn.t.to(dtype), drawn.y, index)


def planned(module, batch, trajectories, step=0):
    """The batch with what the trajectories plan at an optimizer step."""
    plans = [t.plan(batch, step, module.recipe.seed, module.recipe.batch_size) for t in trajectories]
    batch.plan.extend(plan for plan in plans if plan is not None)
    return batch


def without_trainer(module, accumulate=1):
    """The module as one process of one device sees it, so that `training_step` can be called; `logged` collects."""
    logged = {}
    module._trainer = SimpleNamespace(
        world_size=1,
        accumulate_grad_batches=accumulate,
        global_step=0,
        log_every_n_steps=1,
        callback_metrics=logged,
        strategy=SimpleNamespace(reduce=lambda tensor, reduce_op: tensor),
    )
    module.log = lambda name, value, **_: logged.__setitem__(name, float(value))
    return logged


def trainer_of(steps, callbacks=(), **options):
    """A quiet Trainer on the CPU."""
    return Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        callbacks=list(callbacks),
        use_distributed_sampler=False,
        **{
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            **options,
        },
    )


def fit(module, callbacks, steps, dataset=None, ckpt_path=None, **options):
    """Train `module` for `steps` optimizer steps on the tiny set."""
    trainer = trainer_of(steps, callbacks, **options)
    data = DataModule(dataset or tiny_set(), module.recipe.batch_size, module.recipe.seed)
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def saved_at(folder: Path, step: int):
    """A callback that leaves folder/step=<step>.ckpt."""
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=step, save_top_k=-1)


class Recorder(Callback):
    """Writes down, for each micro-batch, the optimizer step, the samples and the plan."""

    def __init__(self):
        self.steps, self.index, self.plans, self.batches = [], [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.index.append(batch.index.tolist())
        self.plans.append({sub.name: sub for sub in batch.plan})
        self.batches.append(batch)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps.append(trainer.global_step)

    def planned_steps(self, name):
        """The optimizer steps, micro-batch by micro-batch, at which `name` was planned."""
        return [step for step, plan in zip(self.steps, self.plans, strict=True) if name in plan]


def weights(module, part="student"):
    return {name: value.detach().clone() for name, value in getattr(module, part).state_dict().items()}


def largest_gap(a, b):
    """The largest difference of two state dicts."""
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)
