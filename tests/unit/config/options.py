"""Option classes of a small task, for tests of the configuration that must not depend on a real task."""

from typing import Literal

from hotloop.config.schema import ModelSection, RowsData, TaskOptions, knob


class ToyModel(ModelSection):
    """A model of two sizes."""

    width: int = knob(8, "Width.", unit="features", ge=1)
    heads: int = knob(2, "Heads.", ge=1)
    dropout: float = knob(0.0, "Dropout.", ge=0, lt=1)
    style: Literal["plain", "fancy"] = knob("plain", "Style.")

    def problems(self) -> list[tuple[str, str, str]]:
        if self.width % self.heads:
            return [("heads", f"{self.heads} heads do not divide width={self.width}", "use heads=1")]
        return []


class ToyData(RowsData):
    """Data with one option of its own."""

    column: str | None = knob(None, "Column.")


TOY = TaskOptions("toy", ToyModel, ToyData)
