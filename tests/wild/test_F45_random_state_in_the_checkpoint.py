"""F45: no random state in the checkpoint: a resumed run repeats an order, or other dropout. Here both go on."""

from __future__ import annotations

import torch


def test_a_resumed_run_draws_what_an_undisturbed_one_draws(tiny, assert_equal):
    whole = tiny.net()
    tiny.fit(whole)
    order = tiny.trained
    run = tiny.cut(at=14, checkpoint_every=5)
    before = tiny.trained
    torch.manual_seed(999)  # a new process starts with another random state
    resumed = tiny.net()
    tiny.go_on(run, resumed)
    assert len(tiny.trained) < 12  # it did go on
    assert before[-14:][: 20 - len(tiny.trained)] + tiny.trained == order[-20:]
    assert_equal(resumed, whole)


def test_without_the_stored_state_the_end_would_differ(tiny, monkeypatch):
    """The test above can fail: dropout does depend on the state."""
    from hotloop import device

    whole = tiny.net()
    tiny.fit(whole)
    run = tiny.cut(at=14, checkpoint_every=5)
    monkeypatch.setattr(device, "restore_random_state", lambda state, place: None)
    resumed = tiny.net()
    tiny.go_on(run, resumed)
    assert not torch.equal(resumed[0].weight, whole[0].weight)


def test_each_epoch_has_its_own_order(tiny):
    tiny.fit(tiny.net(), max_steps=16)
    steps = tiny.trained[-16:]
    first, second = ([row for batch in part for row in batch] for part in (steps[:8], steps[8:]))
    assert sorted(first) == sorted(second) == list(range(60))
    assert first != second
