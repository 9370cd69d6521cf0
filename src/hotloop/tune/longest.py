"""The widest batch that training can meet: a size that holds for the first rows may not hold for the longest ones.

Shapes: N rows of the source; a batch is a dict of tensors with first axis B.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hotloop.assemble import Session
from hotloop.data.loader import fetch, move
from hotloop.data.ragged import source_buckets
from hotloop.data.source import Source, Subset
from hotloop.task import Batch


def widest_rows(source: Source, count: int) -> Tensor | None:
    """Numbers of the `count` rows that make the largest batch, widest first; None where rows have no lengths.

    Of several token columns each one's longest row is among the first, because one long row widens a whole batch.
    """
    buckets = source_buckets(source)
    if buckets is None:
        return None
    numbers, firsts = np.unique(buckets, return_index=True)
    areas = [_areas(source.batch(torch.tensor([int(row)]))) for row in firsts]
    totals = np.array([sum(area.values()) for area in areas])
    rank = np.empty(len(numbers), dtype=np.int64)
    rank[np.argsort(-totals, kind="stable")] = np.arange(len(numbers))
    order = np.argsort(rank[np.searchsorted(numbers, buckets)], kind="stable")
    names = {name for area in areas for name in area}
    extremes = [int(firsts[max(range(len(areas)), key=lambda n: areas[n].get(name, 0))]) for name in sorted(names)]
    chosen = dict.fromkeys([int(order[0]), *extremes, *order[: count + len(extremes)].tolist()])
    return torch.tensor(list(chosen)[:count], dtype=torch.int64)


def _areas(batch: Mapping[str, Any]) -> dict[str, int]:
    """Values in each tensor of a batch of one row."""
    return {name: value.numel() for name, value in batch.items() if isinstance(value, Tensor)}


def widest_batch(session: Session) -> Batch:
    """An effective batch of the longest rows, on the device; of rows without lengths the first that training sees."""
    plan, source = session.plan, session.splits.train
    rows = widest_rows(source, plan.effective_batch)
    if rows is not None:
        return move(fetch(source, rows, plan.effective_batch if plan.pad_ragged else None), plan.torch_device)
    feed = session.feed()
    batch = next(feed)
    getattr(feed, "close", lambda: None)()  # workers end with it
    return batch


def widest_validation(session: Session) -> Source | None:
    """One evaluation batch of the longest rows of the validation part; None where there is no such part."""
    source, plan = session.splits.val, session.plan
    if source is None:
        return None
    size = min(plan.eval_batch, len(source))
    rows = widest_rows(source, size)
    rows = torch.arange(size) if rows is None else rows
    on_device = plan.resident and source.nbytes is not None
    return Subset(source, rows.to(plan.torch_device) if on_device else rows)
