"""The knobs of memory: how much a run may take, and what it does when there is too little."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from hotloop.config.section import Section, knob

_SIZE = r"(?i)^\s*\d+(\.\d+)?\s*[KMGT]i?B?\s*$"


class MemorySection(Section):
    """How much memory a run may take, and what it does when there is too little."""

    budget: Annotated[str, Field(pattern=_SIZE)] | Annotated[float, Field(gt=0, le=1)] | None = knob(
        None,
        "Most memory that the run may take, as 4GB or 900MB, or a share of the device's, as 0.5: the fastest "
        "settings that fit are measured before the run, and the limit is kept. On a CPU it is the growth of the "
        "process.",
    )
    recover: Literal["on", "off"] = knob(
        "on", "Out of memory in a step: take the step back and repeat it in smaller micro-batches; off stops."
    )
    on_batchnorm: Literal["ask", "allow", "refuse"] = knob(
        "ask",
        "Whether a step may be split where BatchNorm would then see other batches: ask asks at a terminal and goes "
        "on elsewhere, saying so; refuse stops instead.",
    )
    offload: Literal["off", "on"] = knob(
        "off", "Keep the optimizer's state in the host's memory and update there; slower, for GPUs that are full."
    )
    keep_freed: Literal["auto", "on", "off"] = knob(
        "auto",
        "On a CPU: memory that tensors gave back stays with the process, so that the next step need not ask the system "
        "for it again, page by page; auto does so unless there is a budget. It changes no result.",
    )

    @field_validator("budget", mode="before")
    @classmethod
    def _with_a_unit(cls, budget: Any) -> Any:
        if isinstance(budget, str):  # as the command line gives a share
            with contextlib.suppress(ValueError):
                budget = float(budget)
        if isinstance(budget, int | float) and not isinstance(budget, bool) and budget > 1:
            raise ValueError(f"needs a unit: {budget:g}GB, or a share of the device's memory up to 1")
        return budget
