"""What classifiers share, held against torchmetrics and scikit-learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, matthews_corrcoef
from torchmetrics.functional.classification import multiclass_calibration_error

from hotloop.task import LossOptions
from hotloop.tasks import classification as c


def rows(n=400, classes=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=draw)
    return F.one_hot(y, classes) * 1.0 + torch.randn(n, classes, generator=draw), y


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_metrics_are_those_of_scikit_learn(classes):
    logits, y = rows(classes=classes)
    guess = logits.argmax(1)
    found = c.class_scores(c.confusion_of(logits, y))
    assert found["f1_macro"] == pytest.approx(f1_score(y, guess, average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, guess))
    assert found["mcc"] == pytest.approx(matthews_corrcoef(y, guess))


def test_a_class_that_is_nowhere_counts_nowhere():
    logits = torch.tensor([[2.0, 0, 0], [2.0, 0, 0], [0, 2.0, 0]])
    y = torch.tensor([0, 1, 1])
    found = c.class_scores(c.confusion_of(logits, y))
    assert found["f1_macro"] == pytest.approx(f1_score(y, logits.argmax(1), average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(0.75)


def test_tables_of_batches_add_up_and_padding_counts_nowhere():
    logits, y = rows(10)
    whole = c.class_tallies(logits, y, None)
    first = c.class_tallies(logits[:6], y[:6], None)
    last = c.class_tallies(logits[[6, 7, 8, 9, 9]], y[[6, 7, 8, 9, 9]], torch.tensor([1.0, 1, 1, 1, 0]))
    for name, tally in whole.items():
        assert torch.equal((first[name] + last[name]).sum, tally.sum)
        assert (first[name] + last[name]).weight == tally.weight


def test_smoothing_and_focal_factor_are_for_training_only():
    logits, y = rows()
    options = LossOptions(label_smoothing=0.1, focal_gamma=2.0)
    plain = F.cross_entropy(logits, y, reduction="none")
    assert torch.allclose(c.class_loss(logits, y, options, False), plain)
    right = logits.softmax(1).gather(1, y[:, None])[:, 0]
    smooth = F.cross_entropy(logits, y, reduction="none", label_smoothing=0.1)
    assert torch.allclose(c.class_loss(logits, y, options, True), smooth * (1 - right) ** 2)


def test_calibration_finds_the_temperature_and_mends_the_error():
    logits, y = rows(4000)
    honest = c.calibrate(logits, y)["temperature"]
    found = c.calibrate(logits * 3.0, y)
    assert found["temperature"] == pytest.approx(3.0 * honest, rel=1e-3)
    assert found["nll_after"] < found["nll_before"]
    assert found["ece_after"] < 0.5 * found["ece_before"]
    probabilities = (logits * 3.0).double().softmax(1)
    theirs = multiclass_calibration_error(probabilities, y, num_classes=4, n_bins=15)
    assert found["ece_before"] == pytest.approx(float(theirs), abs=1e-6)


def test_the_linear_baseline_is_a_logistic_regression():
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(600, 5, generator=draw)
    y = (x @ torch.randn(5, 3, generator=draw) + 0.5 * torch.randn(600, 3, generator=draw)).argmax(1)
    found = c.linear_scores(x[:400], y[:400], x[400:], y[400:], 3)
    theirs = LogisticRegression(class_weight="balanced", max_iter=1000).fit(x[:400].numpy(), y[:400].numpy())
    right = (theirs.predict(x[400:].numpy()) == y[400:].numpy()).mean()
    assert found["accuracy"] == pytest.approx(right, abs=0.03)
    majority = c.majority_scores(y[:400], y[400:], 3)
    assert majority["balanced_accuracy"] == pytest.approx(1 / len(y[400:].unique()))


def test_the_conclusion_tells_each_class_of_each_part():
    (val, y), (test, z) = rows(), rows(seed=1)
    found = c.conclusion({"val": {"logits": val, "y": y}, "test": {"logits": test, "y": z}}, ["a", "b", "c"])
    assert [row["class"] for row in found["per_class"]] == ["a", "b", "c", "3"]
    assert sum(row["support"] for row in found["test_per_class"]) == len(z)
    assert {"temperature", "ece_after", "test_ece_before"} <= found["calibration"].keys()
