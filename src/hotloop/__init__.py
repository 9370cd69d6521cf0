"""hotloop: train PyTorch models as fast as the hardware allows, correctly, with the evidence.

The public names load on first use, so that `import hotloop` and the command line's help need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotloop.api import fit as fit
    from hotloop.api import steps as steps
    from hotloop.api import train as train
    from hotloop.data.source import Source as Source
    from hotloop.data.table import from_table as from_table
    from hotloop.engine.hooks import Callback as Callback
    from hotloop.errors import HotloopError as HotloopError
    from hotloop.saved import load_run as load_run
    from hotloop.task import Task as Task

__version__ = "0.1.0"

_HOME = {
    "fit": "hotloop.api",
    "train": "hotloop.api",
    "steps": "hotloop.api",
    "load_run": "hotloop.saved",
    "Task": "hotloop.task",
    "Splits": "hotloop.task",
    "Tally": "hotloop.task",
    "Source": "hotloop.data.source",
    "from_table": "hotloop.data.table",
    "Callback": "hotloop.engine.hooks",
    "Ask": "hotloop.engine.hooks",
    "HotloopError": "hotloop.errors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hotloop' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
