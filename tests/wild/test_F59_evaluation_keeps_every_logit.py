"""F59: evaluation keeps every logit. Here each batch becomes a few sums, and its logits are gone with the next one."""

from __future__ import annotations

import weakref

import torch

from hotloop.engine import measure


class Watching(torch.nn.Module):
    """A linear layer that knows how many of its outputs are still alive when it makes the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 50)
        self.made: list[weakref.ref] = []
        self.alive_at_most = self.calls = 0

    def forward(self, x):
        alive = sum(ref() is not None for ref in self.made)
        self.alive_at_most = max(self.alive_at_most, alive)
        out = self.layer(x)
        if not self.training:
            self.calls += len(x) == 3  # other sizes are the rehearsal before the run
            self.made.append(weakref.ref(out))
        return out


def test_no_more_than_one_batch_of_logits_is_alive(tiny):
    net = Watching()
    seen = []
    real = measure.plain_tallies

    def watch(*given):
        tallies = real(*given)
        seen.append(sum(t.sum.numel() + t.weight.numel() for t in tallies.values()))
        return tallies

    measure.plain_tallies = watch
    try:
        run = tiny.fit(
            net,
            metrics={"accuracy": lambda m, b: m(b["x"]).argmax(1) == 0},
            eval_batch_size=3,
            max_steps=2,
            eval_every=1,
        )
    finally:
        measure.plain_tallies = real
    assert 0 <= net.calls - 2 * 2 * 20 <= 4  # two evaluations of 20 batches, loss and metric; and the forecast's passes
    assert net.alive_at_most <= 2
    assert seen == [4] * 40  # a sum and a weight for the loss and for the metric, whatever the size of the data
    assert 0 <= run.summary["eval_accuracy"] <= 1
