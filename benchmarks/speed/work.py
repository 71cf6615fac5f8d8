"""A case as something to run: the module's own training_step on synthetic latents, without a Trainer."""

from contextlib import AbstractContextManager
from dataclasses import replace
from types import SimpleNamespace

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from decm.experiment.build import build_network
from decm.flow.velocity import GuidedVelocity
from decm.networks.regions import prepare_regions
from decm.settings.composition import compose
from decm.training.module import DistillationModule, Recipe, Teacher
from speed.cases import JOINT, NETWORKS, PLAIN, Case
from speed.joint import make_joint

CYCLE = 3  # optimizer steps from one N2N step to the next, DE-CM Tab. 7
LATE = 30_000  # an optimizer step after r's decay (20,000 steps), a multiple of CYCLE: r = 0, as in 94% of the run


def no_tangent(net: nn.Module, x: Tensor, t: Tensor, s: Tensor, y: Tensor, tangents: object) -> tuple[Tensor, Tensor]:
    """F alone: what a step would cost if its tangent were free."""
    F = net(x, t, s, y)
    return F, torch.zeros_like(F)


@torch.no_grad()
def randomized(network: nn.Module) -> nn.Module:
    """The network with small noise in place of its zeros, so that no product is with zero."""
    for parameter in network.parameters():
        if not parameter.any():
            parameter.normal_(std=0.02)
    return network


def adopt(network: nn.Module, other: nn.Module) -> None:
    """Replace the network's parameters and buffers by the other's, of the same names."""
    for name, tensor in [*other.named_parameters(), *other.named_buffers()]:
        module, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(module), leaf, tensor)


class Work:
    """`step(k)` does what optimizer step k of the experiment does with one batch; every third step has N2N.

    The branch alone has no teacher (its velocity is x - z) and stops after the backward pass; the whole step draws the
    anchor, asks the guided teacher, and ends with AdamW. Neither clips gradients nor averages weights.
    Weights, gradients and optimizer are those of `like` if it is given: its case may differ in how it runs alone.
    """

    def __init__(self, case: Case, device: str, like: "Work | None" = None) -> None:
        torch.manual_seed(0)
        self.case, self.device = case, device
        cfg = compose("train", ["experiment=decm_imagenet", *NETWORKS[case.network], f"batch_size={case.batch}"])
        wanted = [name for name in cfg.method if case.what == "step" or name == "consistency"]
        self.trajectories = [instantiate(cfg.method[name]) for name in wanted]
        student, net = (self._network(cfg.network, two_times, like) for two_times in (True, False))
        teacher = Teacher(GuidedVelocity(net, cfg.network.num_classes, **cfg.teacher.guidance), net)
        recipe = Recipe(
            cfg.seed,
            case.batch,
            instantiate(cfg.optimizer),
            lambda step: 1.0,
            jvp="dual" if case.engine in (JOINT, PLAIN) else case.engine,
        )
        self.module = module = DistillationModule(student, teacher if case.what == "step" else None, recipe)
        del module.ema
        module._trainer = SimpleNamespace(  # one process of one device
            world_size=1,
            accumulate_grad_batches=1,
            global_step=0,
            strategy=SimpleNamespace(reduce=lambda tensor, reduce_op: tensor),
        )
        module.log = lambda name, value, **_: None
        if case.engine == PLAIN:
            module.student_map.engine = no_tangent
        self.teacher_network = net
        self.optimizer = like.optimizer if like else module.configure_optimizers()["optimizer"]
        shape = (CYCLE, case.batch, *student.shape)
        self.x, self.y = torch.randn(shape), torch.randint(1000, shape[:2])

    def _network(self, settings: DictConfig, two_times: bool, like: "Work | None") -> nn.Module:
        """Student or teacher as the case wants it, with the weights of `like` if there is one."""
        with torch.device("meta" if like else "cpu"):
            network = build_network(settings, 0, two_times=two_times)
        if like:
            adopt(network, like.module.student if two_times else like.teacher_network)
        else:
            randomized(network).to(self.device)
        if self.case.engine == JOINT:
            make_joint(network)
        prepare_regions(network, self.case.compiled, self.case.checkpointed and two_times)
        if self.case.precision == "cast":
            for part in [*network.blocks, network.final_layer, network.x_embedder, network.y_embedder]:
                part.to(torch.bfloat16)
        return network

    def autocast(self) -> AbstractContextManager[None]:
        """As Lightning's precision `bf16-mixed` does."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.case.precision == "bf16")

    def loss(self, k: int) -> Tensor:
        """The loss of optimizer step LATE + k."""
        module, index = self.module, LATE * self.case.batch + k * self.case.batch + torch.arange(self.case.batch)
        drawn = {"x": self.x[k % CYCLE], "y": self.y[k % CYCLE], "index": index}
        batch = module.transfer_batch_to_device(module.draw(drawn), torch.device(self.device), 0)
        planned = [part.plan(batch, LATE + k, module.recipe.seed, self.case.batch) for part in self.trajectories]
        batch.plan.extend(sub for sub in planned if sub is not None)
        with self.autocast():
            return module.training_step(batch, k)

    def step(self, k: int) -> None:
        """Loss and gradients, which stay allocated; the whole step also updates the weights."""
        self.loss(k).backward()
        if self.case.what == "step":
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)

    @property
    def steps(self) -> range:
        """The steps that make up one measurement."""
        return range(CYCLE if self.case.what == "step" else 1)


def eager(case: Case, batch: int) -> Case:
    """The case with the same operations one by one, at another batch."""
    return replace(case, compiled=False, batch=batch)
