"""What tells one data set from another: its size and a hash of some of its rows, so that a run never goes on with
other data unnoticed. Items that a person's own code fetches one by one may be random; of these only the number counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from hotloop.data.source import Source
from hotloop.data.stream import StreamSource

_ROWS = 64


def fingerprint(source: Source, device: torch.device | None) -> dict[str, Any]:
    """Rows, bytes and the SHA-256 of up to 64 evenly spaced rows; JSON-ready.

    Args:
        source: any; nothing is fetched from one that must stay on the host.
        device: where the source's tensors are; None for the host.
    """
    if isinstance(source, StreamSource):  # neither its length nor its contents can be had
        return {"rows": None, "bytes": None}
    rows = len(source)
    found: dict[str, Any] = {"rows": rows, "bytes": source.nbytes}
    if source.nbytes is not None:
        digest = hashlib.sha256()
        for row in sorted({number * (rows - 1) // (_ROWS - 1) for number in range(_ROWS)}):
            _add(digest, source.batch(torch.tensor([row], device=device)))
        found["sample"] = digest.hexdigest()
    return found


def difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What the first difference between two sets of fingerprints (part -> fingerprint) is, as a person says it."""
    for part in {**was, **now}:
        before, after = was.get(part), now.get(part)
        if before is None or after is None:
            return f"there {'was no' if before is None else 'is no longer a'} {part} part"
        for unit in ("rows", "bytes"):
            if before.get(unit) != after.get(unit):
                return f"the {part} part has {_count(after.get(unit))} {unit}, it had {_count(before.get(unit))}"
        if before.get("sample") != after.get("sample"):
            return f"rows of the {part} part have other contents"
    return ""


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "an unknown number of"


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for name in sorted(value):
            digest.update(str(name).encode())
            _add(digest, value[name])
    else:
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
