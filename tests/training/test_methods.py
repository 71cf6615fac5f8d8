"""Every method of conf/method trains, with a guided teacher and from scratch; its own parameters are saved."""

import pytest
import torch
from hydra.utils import instantiate

from decm.objectives.consistency import Consistency
from decm.objectives.flow_matching import FlowMatching
from decm.objectives.improved_mean_flow import ImprovedMeanFlow
from decm.objectives.scm import SCM
from decm.objectives.shortcut import Shortcut
from decm.settings.composition import compose, conf_dir
from decm.training.callbacks.method.trajectories import AnyLater, Dyadic, Instantaneous, ToData
from decm.training.cost import WithoutGradient, cost_with_derivative
from decm.training.sharding import ShardedStrategy
from helpers import randomize_parameters, relative_error, small_dit, small_mlp
from tiny import (
    GLOBAL_BATCH,
    anchor,
    fit,
    largest_gap,
    planned,
    saved_at,
    tiny_module,
    tiny_set,
    trainer_of,
    weights,
    without_trainer,
)

METHODS = sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml"))
AWAY_FROM_THE_PATH = {"decm", "decm_plus", "fm_n2n"}  # these ask for the velocity at states that x - z is not known for


def trajectories(method):
    cfg = compose("train", ["experiment=decm_2d", f"method={method}", "max_steps=4"])
    return [instantiate(node) for node in cfg.method.values()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("teacher", [True, False], ids=["teacher", "scratch"])
def test_every_method_trains_with_a_guided_teacher_and_from_scratch(method, teacher):
    """Each weight that a gradient reaches has moved after four steps, over the whole of any schedule."""
    module = tiny_module(teacher)
    before = weights(module)
    if not teacher and method in AWAY_FROM_THE_PATH:
        with pytest.raises(ValueError, match="needs the velocity away from the anchor's path"):
            fit(module, trajectories(method), 4)
        return
    fit(module, trajectories(method), 4)
    after = weights(module)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith(("blocks", "final", "t_embedder"))} <= moved
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert module.forward_equivalents >= 4 * GLOBAL_BATCH * 3


def test_what_discrete_laws_see_of_the_student_is_counted_and_has_no_gradient():
    """A shortcut looks at two halves, improved MeanFlow at the boundary: forwards beside the student's own."""
    for segment, own in (
        (Dyadic(name="shortcut", objective=Shortcut()), 3 + 2),
        (AnyLater(name="mean_flow", objective=ImprovedMeanFlow()), 5 + 1),
    ):
        module = tiny_module(teacher=False, student=randomize_parameters(small_mlp("raw"), seed=1))
        without_trainer(module)
        batch = planned(module, anchor(module, tiny_set(), range(GLOBAL_BATCH)), [segment])
        module.training_step(batch, 0)
        module.read_step()
        plain = module._cost([]) + own * GLOBAL_BATCH
        assert module.forward_equivalents == pytest.approx(plain - (own == 6) * GLOBAL_BATCH * (5 - dual_cost(module)))


def dual_cost(module):
    return cost_with_derivative(module.recipe.jvp, module.student)


def test_a_shortcut_looks_at_the_average_and_not_at_the_student():
    module = tiny_module(teacher=False)
    without_trainer(module)
    with torch.no_grad():
        for parameter in module.ema.parameters():
            parameter.zero_()
    batch = planned(module, anchor(module, tiny_set(), range(GLOBAL_BATCH)), [Dyadic(name="a", objective=Shortcut())])
    segment_loss = module.training_step(batch, 0)
    sub = batch.plan[0]
    part = batch.segment(sub, batch.x)
    F = module.student(part.x, part.start, part.end, part.y)
    assert float(segment_loss) == pytest.approx(float(F.square().mean()), rel=1e-5)  # the average is zero


def test_looking_at_the_student_first_does_not_cost_it_its_gradient_under_autocast():
    """Autocast keeps a weight that was cast; one that was cast without a gradient would have none in the next call."""
    net = randomize_parameters(small_dit(), seed=1)
    x, t, y = torch.randn(4, *net.shape), torch.rand(4), torch.zeros(4, dtype=torch.int64)

    def gradient(look):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            if look:
                WithoutGradient(net)(x, t, t, y)
            net(x, t, t, y).square().mean().backward()
        return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}

    alone, after = gradient(look=False), gradient(look=True)
    assert alone.keys() == after.keys()
    assert max(relative_error(after[name], alone[name]) for name in alone if float(alone[name].norm()) > 1e-6) < 1e-6


def scm():
    return [Instantaneous("instantaneous", FlowMatching()), ToData("consistency", SCM(), schedule_steps=2)]


def test_the_parameters_of_an_objective_are_trained_saved_and_restored(tmp_path):
    """A run that is resumed after two steps ends as one of four, the learned weight over time included."""
    whole, first, resumed = tiny_module(), tiny_module(), tiny_module()
    fit(whole, scm(), 4)
    fit(first, [*scm(), saved_at(tmp_path, 2)], 2, enable_checkpointing=True)
    fit(resumed, scm(), 4, ckpt_path=tmp_path / "step=2.ckpt")
    learned = weights(whole, "laws")
    assert list(learned) == ["consistency.weight.coefficients"]
    assert float(learned["consistency.weight.coefficients"].abs().min()) > 0
    assert largest_gap(learned, weights(resumed, "laws")) == 0
    assert largest_gap(weights(whole), weights(resumed)) == 0
    assert largest_gap(learned, weights(first, "laws")) > 1e-3


def test_an_objective_without_parameters_adds_none():
    module = tiny_module()
    fit(module, [ToData("consistency", SCM(adaptive=False)), ToData("other", Consistency())], 1)
    assert weights(module, "laws") == {}


def test_parameters_of_an_objective_are_refused_where_they_would_not_be_sharded():
    trainer = trainer_of(1)
    trainer.strategy.__class__ = ShardedStrategy
    with pytest.raises(ValueError, match="sCM: adaptive=false"):
        scm()[1].setup(trainer, tiny_module(), "fit")
