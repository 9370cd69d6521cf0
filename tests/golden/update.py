"""Store this machine's golden curves: `python tests/golden/update.py`. Only after an intended change of the numbers."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """One thread, as the tests have it; the tree that this file is in comes before an installed package."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "src"))
    from conftest import update

    print("\n".join(update()))


if __name__ == "__main__":
    main()
