"""The evaluation of a flow map at several NFEs: which sampler, which samples, which scores."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from decm.evaluation.generate import balanced_labels, generate_many
from decm.evaluation.judge import Judge
from decm.flow.flow_map import FlowMap
from decm.flow.solvers import choose_sampler

Progress = Callable[[str], None]


@dataclass
class Evaluator:
    """Generates `num_samples` samples with balanced labels from seeds, on all ranks, and has `judge` score them.

    `samplers` overrides the rule of flow/solvers.py by NFE.
    """

    judge: Judge
    shape: Sequence[int]
    num_classes: int
    seed: int = 0
    batch_size: int = 500
    samplers: Mapping[int, str] = field(default_factory=dict)
    device: torch.device | str = "cpu"

    def sampler(self, nfe: int, trained_on: Collection[str]) -> str:
        """The sampler used at `nfe` steps for a model trained on the named segments (none: a velocity)."""
        return choose_sampler(nfe, trained_on, self.samplers)

    def samples(self, flow_map: FlowMap, nfe: int, num_samples: int, trained_on: Collection[str]) -> Tensor | None:
        """Samples [num_samples, *shape] of the default labels and seeds; None on ranks but the first."""
        labels = balanced_labels(num_samples, self.num_classes)
        sampler = self.sampler(nfe, trained_on)
        return generate_many(
            flow_map,
            self.shape,
            labels=labels,
            nfe=nfe,
            sampler=sampler,
            seed=self.seed,
            batch_size=self.batch_size,
            device=self.device,
        )

    def _score(self, samples: Tensor, nfe: int) -> dict[str, float]:
        """The judge's scores; NaN, and a printed line, where samples are not finite, which pictures would hide."""
        found = self.judge.score(samples, balanced_labels(len(samples), self.num_classes))
        broken = int((~samples.isfinite().flatten(1).all(1)).sum())
        if not broken:
            return found
        print(f"{broken} of {len(samples)} samples at NFE {nfe} are NaN or infinite: the figures are NaN.", flush=True)
        return dict.fromkeys(found, math.nan)

    def __call__(
        self,
        flow_map: FlowMap,
        nfes: Sequence[int],
        num_samples: int,
        trained_on: Collection[str],
        progress: Progress = lambda _: None,
    ) -> dict[int, dict[str, float]] | None:
        """Scores by NFE. Of several ranks all must call it; the first judges, the others get None.

        Raises ValueError for an NFE outside 1 to 1000 or fewer than two samples.
        """
        if num_samples < 2:
            raise ValueError(f"num_samples={num_samples}; expected at least 2.")
        scores = {}
        for nfe in nfes:
            progress(f"{nfe} step{'s' if nfe > 1 else ''}")
            samples = self.samples(flow_map, nfe, num_samples, trained_on)
            if samples is not None:
                scores[nfe] = self._score(samples, nfe)
        return scores or None
