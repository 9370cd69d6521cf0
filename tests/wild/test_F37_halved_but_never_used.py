"""F37: on an out-of-memory error a number is halved and the loader goes on as before. Here the pieces get smaller."""

from __future__ import annotations

from pathlib import Path

from ..unit.engine.trouble import Trouble, fit, plain_net


class Widest(Trouble):
    """Watches the widest piece of every step that was made."""

    def __init__(self) -> None:
        super().__init__(above=3)
        self.widest: list[int] = []

    def loss(self, model, batch):
        found = super().loss(model, batch)
        if self.state is not None and found.requires_grad:
            self.widest.append(len(batch["row"]))
        return found


def test_the_forward_pass_sees_fewer_rows(experiments: Path) -> None:
    trouble = Widest()
    fit(experiments, trouble, plain_net())
    assert trouble.struck == 3  # 8 rows, 8 again, 4
    assert max(trouble.widest) == 2 and trouble.state.pieces.rows == 2
