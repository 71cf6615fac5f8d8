"""All planned segments share one student call with tangents and one without."""

from collections.abc import Sequence

import torch
from torch import Tensor

from decm.flow.flow_map import FlowMap
from decm.objectives.base import Rows

Value = tuple[Tensor, Tensor | None]  # (F, dF or None), row by row as asked


def _joined(asked: Sequence[Rows]) -> Rows:
    x, t, s, y = (torch.cat(parts) for parts in zip(*(rows[:4] for rows in asked), strict=True))
    if asked[0].tangents is None:
        return Rows(x, t, s, y)
    dx, dt, ds = (torch.cat(parts) for parts in zip(*(rows.tangents or () for rows in asked), strict=True))
    return Rows(x, t, s, y, (dx, dt, ds))


def _call(student: FlowMap, asked: Sequence[Rows]) -> list[Value]:
    """One student call for segments that all want tangents, or all do not."""
    rows, sizes = _joined(asked), [len(part.x) for part in asked]
    if rows.tangents is None:
        return [(F, None) for F in student.average_velocity(*rows[:4]).split(sizes)]
    F, dF = student.with_derivative(*rows[:4], rows.tangents)
    return list(zip(F.split(sizes), dF.split(sizes), strict=True))


def call_student(student: FlowMap, asked: Sequence[Rows], fused: bool = True) -> list[Value]:
    """(F, dF) for each of the asked rows; `fused` makes at most two calls, otherwise one a segment (same numbers)."""
    if not fused:
        return [_call(student, [rows])[0] for rows in asked]
    values: list[Value | None] = [None] * len(asked)
    for with_tangents in (True, False):
        chosen = [k for k, rows in enumerate(asked) if (rows.tangents is not None) == with_tangents]
        if chosen:
            for k, value in zip(chosen, _call(student, [asked[k] for k in chosen]), strict=True):
                values[k] = value
    return [value for value in values if value is not None]
