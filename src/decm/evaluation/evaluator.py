"""The evaluation of a flow map at several NFEs: which sampler, which samples, which scores."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from decm.evaluation.generate import Rows, balanced_labels, generate_many, itself
from decm.evaluation.judge import Judge, NoJudge
from decm.flow.flow_map import FlowMap, observed
from decm.flow.solvers import choose_sampler

FINITE = "finite"
Progress = Callable[[str], None]


@dataclass
class Evaluator:
    """Generates `num_samples` samples with balanced labels from seeds, on all ranks, and has `judge` score them.

    `samplers` overrides the rule of flow/solvers.py by NFE; `alive` is called at each step of the network, on all ranks
    equally often.
    """

    judge: Judge
    shape: Sequence[int]
    num_classes: int
    seed: int = 0
    batch_size: int = 500
    samplers: Mapping[int, str] = field(default_factory=dict)
    device: torch.device | str = "cpu"
    alive: Callable[[], None] = field(default=lambda: None, kw_only=True)

    def sampler(self, nfe: int, trained_on: Collection[str]) -> str:
        """The sampler used at `nfe` steps for a model trained on the named segments (none: a velocity)."""
        return choose_sampler(nfe, trained_on, self.samplers)

    def samples(self, flow_map: FlowMap, nfe: int, num_samples: int, trained_on: Collection[str]) -> Tensor | None:
        """Samples [num_samples, *shape] of the default labels and seeds; None on ranks but the first."""
        found = self._made(flow_map, nfe, num_samples, trained_on, judged=False)
        return None if found is None else found["samples"]

    def _made(
        self, flow_map: FlowMap, nfe: int, num_samples: int, trained_on: Collection[str], judged: bool
    ) -> Rows | None:
        """The samples, or what is judged of them; None on ranks but the first."""
        return generate_many(
            observed(flow_map, lambda rows: self.alive()),
            self.shape,
            labels=balanced_labels(num_samples, self.num_classes),
            nfe=nfe,
            sampler=self.sampler(nfe, trained_on),
            seed=self.seed,
            batch_size=self.batch_size,
            device=self.device,
            look=self._judged if judged else itself,
        )

    def _judged(self, samples: Tensor) -> Rows:
        """What is judged of a batch, on the rank that made it; pictures would hide what is not finite."""
        return {**self.judge.features(samples), FINITE: samples.isfinite().flatten(1).all(1)}

    def _score(self, features: Rows, nfe: int) -> dict[str, float]:
        """The judge's scores; NaN, and a printed line, where samples are not finite."""
        finite, num = features[FINITE], len(features[FINITE])
        found = self.judge.compare(features, balanced_labels(num, self.num_classes))
        if finite.all():
            return found
        broken = num - int(finite.sum())
        print(f"{broken} of {num} samples at NFE {nfe} are NaN or infinite: the figures are NaN.", flush=True)
        return dict.fromkeys(found, math.nan)

    def __call__(
        self,
        flow_map: FlowMap,
        nfes: Sequence[int],
        num_samples: int,
        trained_on: Collection[str],
        progress: Progress = lambda _: None,
    ) -> dict[int, dict[str, float]] | None:
        """Scores by NFE; None on ranks but the first, and where nothing is judged.

        All ranks must call it: each extracts the features of its own samples.

        Raises ValueError for an NFE outside 1 to 1000 or fewer than two samples.
        """
        if num_samples < 2:
            raise ValueError(f"num_samples={num_samples}; expected at least 2.")
        if isinstance(self.judge, NoJudge):
            return None
        scores = {}
        for nfe in nfes:
            progress(f"{nfe} step{'s' if nfe > 1 else ''}")
            features = self._made(flow_map, nfe, num_samples, trained_on, judged=True)
            if features is not None:
                scores[nfe] = self._score(features, nfe)
        return scores or None
