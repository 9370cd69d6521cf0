"""The plan tells before training where a resumed run may differ from an undisturbed one."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),
        ({"compile": "default"}, ""),
        ({"compile": "max-autotune"}, "by timing"),
        ({"device": "cuda"}, "training.deterministic=true"),
        ({"device": "cuda", "deterministic": True}, ""),
    ],
)
def test_what_makes_resuming_inexact_is_said(make_plan, changes, says) -> None:
    told = " ".join(make_plan(**changes).inexact())
    assert bool(told) == bool(says)
    assert says in told
