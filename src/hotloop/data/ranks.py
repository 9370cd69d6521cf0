"""What each of several ranks sees of one order: together exactly what one process would."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hotloop.data.sampler import Indices, Sampler


@dataclass(frozen=True)
class RankShare:
    """One rank's part of another sampler's order: of each effective batch every `ranks`-th item, from `rank` on.

    All ranks together see exactly the batches that one process would, whatever the sampler; a weighted one too.
    """

    inner: Sampler
    rank: int
    ranks: int

    @property
    def batch_size(self) -> int:
        return -(-self.inner.batch_size // self.ranks)

    @property
    def steps_per_epoch(self) -> int:
        return self.inner.steps_per_epoch

    def indices(self, epoch: int, step: int, count: int = 1) -> Indices:
        whole = self.inner.indices(epoch, step, count)
        batches = [
            whole[first : first + self.inner.batch_size] for first in range(0, len(whole), self.inner.batch_size)
        ]
        return np.concatenate([batch[self.rank :: self.ranks] for batch in batches])
