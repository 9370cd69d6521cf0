"""F28: training standardised, validation raw. One scaler, fitted on the training part, makes every part's values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hotloop.tasks.forecast.options import ForecastData, ForecastModel
from hotloop.tasks.forecast.task import Forecast

ROWS = 400


@pytest.fixture
def path(tmp_path):
    """A series whose later part lies elsewhere: what a scaler saw can be told from what it did not."""
    values = np.random.default_rng(3).normal(size=ROWS) * 5 + 1000
    values[320:] += 200
    file = tmp_path / "series.csv"
    file.write_text("\n".join(["value", *map(str, values)]))
    return file


def test_every_part_is_scaled_by_the_training_part_alone(path):
    task = Forecast(ForecastModel(), ForecastData(path=str(path), sequence=10), seed=1)
    splits = task.sources()
    original = np.loadtxt(path, skiprows=1)
    mean, spread = original[:320].mean(), original[:320].std()
    parts = {(10, 320): splits.train, (320, 360): splits.val, (360, 400): splits.test}
    for (first, last), source in parts.items():
        y = source.batch(torch.arange(len(source)))["y"][:, 0, 0].numpy()
        assert np.allclose(y, (original[first:last] - mean) / spread, atol=1e-3)
    assert abs(y.mean()) > 10  # scaled by its own numbers the test part would have mean 0
