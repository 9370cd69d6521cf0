"""Models of transformers: their own loss, weighed right in batches of any cut, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hotloop
from hotloop.errors import HotloopError
from hotloop.pretrained import OwnLoss

transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
transformers.logging.set_verbosity_error()
STILL = {"precision": "fp32", "compile": "off"}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(3, 30, (24, 7), generator=GENERATOR)
MASK = torch.ones_like(IDS)
HALF_HIDDEN = torch.where(torch.rand(IDS.shape, generator=GENERATOR) < 0.5, torch.tensor(-100), IDS)
CLASSES = IDS[:, 0] % 3


@pytest.fixture
def fit(experiments: Path) -> Callable[..., Any]:
    return partial(hotloop.fit, progress=False, trackers=(), dir=str(experiments), **STILL)


def bert(kind: str = "ForSequenceClassification", **more: Any) -> nn.Module:
    torch.manual_seed(0)
    return getattr(transformers, f"Bert{kind}")(transformers.BertConfig(**SMALL, **more)).eval()


def gpt() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30, n_positions=16)
    return transformers.GPT2LMHeadModel(config).eval()


def t5() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config).eval()


HEADS = {
    "classes": (lambda: bert(num_labels=3), CLASSES),
    "tokens": (lambda: bert("ForTokenClassification", num_labels=30), HALF_HIDDEN),
    "masked": (lambda: bert("ForMaskedLM"), HALF_HIDDEN),
    "next token": (gpt, HALF_HIDDEN),
    "sequence to sequence": (t5, HALF_HIDDEN),
    "a number": (lambda: bert(num_labels=1), CLASSES.float()),
    "several at once": (lambda: bert(num_labels=3), nn.functional.one_hot(CLASSES, 3).float()),
}


@pytest.mark.parametrize("head", HEADS)
def test_the_parts_of_a_batch_add_up_to_the_models_own_loss(head: str) -> None:
    make, labels = HEADS[head]
    net = make()
    own = net(input_ids=IDS, attention_mask=MASK, labels=labels).loss
    loss = OwnLoss(net)
    batch = {"input_ids": IDS, "attention_mask": MASK, "labels": labels}
    total = loss.weight(batch)
    cut = [{name: value[rows] for name, value in batch.items()} for rows in (slice(0, 3), slice(3, 17), slice(17, 24))]
    summed = sum(loss(net, part) * loss.weight(part) for part in cut) / total
    torch.testing.assert_close(summed, own)


def test_batch_and_accumulation_of_any_cut_train_the_same(fit) -> None:
    rows = {"input_ids": IDS, "attention_mask": MASK, "labels": HALF_HIDDEN}
    runs = []
    for size, accumulated in ((12, 1), (4, 3), (3, 4)):
        net = gpt()
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        shape = {"batch_size": size, "gradient_accumulation_steps": accumulated}
        runs.append(fit(net, rows, max_steps=6, learning_rate=1e-2, seed=1, log_every=1, **shape))
    for run in runs[1:]:
        for one, other in zip(runs[0].history, run.history, strict=True):
            assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-5)


def test_validation_is_over_labels_not_over_batches(fit) -> None:
    rows = {"input_ids": IDS[:23], "attention_mask": MASK[:23], "labels": HALF_HIDDEN[:23]}
    run = fit(gpt(), rows, val=rows, max_steps=2, batch_size=5)
    with torch.no_grad():
        own = run.model.eval()(**rows).loss
    assert run.summary["eval_loss"] == pytest.approx(float(own), rel=1e-5)


def test_weights_of_the_data_weigh(fit) -> None:
    kept = torch.arange(24) % 2 == 0
    rows = {"input_ids": IDS, "attention_mask": MASK, "labels": CLASSES}
    run = fit(bert(num_labels=3), {**rows, "weight": kept.float()}, val={**rows, "weight": kept.float()}, max_steps=2)
    with torch.no_grad():
        own = run.model.eval()(**{name: value[kept] for name, value in rows.items()}).loss
    assert run.summary["eval_loss"] == pytest.approx(float(own), rel=1e-5)


def test_it_learns_goes_on_where_it_was_and_names_what_it_does_not_use(experiments: Path, capsys) -> None:
    rows = {"input_ids": IDS, "attention_mask": MASK, "label": CLASSES, "number": torch.arange(24)}

    def right(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(batch["input_ids"]).logits.argmax(-1) == batch["label"]

    def halt(info: Any) -> hotloop.Ask | None:
        return hotloop.Ask(stop="interrupted", save=True) if info.step == 20 else None

    with_all = {"val": rows, "metrics": {"accuracy": right}, "trackers": (), "dir": str(experiments), **STILL}
    long = {"max_steps": 60, "learning_rate": 1e-2}
    with pytest.raises(HotloopError, match="interrupted"):
        hotloop.fit(bert(num_labels=3), rows, callbacks=[halt], **with_all, **long)
    assert "columns that the model does not take: number" in capsys.readouterr().out
    (folder,) = experiments.iterdir()
    run = hotloop.fit(bert(num_labels=3), rows, resume_from_checkpoint=folder, **with_all)
    assert run.summary["steps"] == 60
    assert run.summary["eval_accuracy"] > 0.9


def test_steps_needs_no_loss_either() -> None:
    rows = {"input_ids": IDS, "labels": IDS}
    assert [info.step for info in hotloop.steps(gpt(), rows, max_steps=3, **STILL)] == [1, 2, 3]


class Doubled(transformers.BertForSequenceClassification):
    """Its own loss is no cross entropy."""

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Any:
        output = super().forward(input_ids, labels=labels)
        output.loss = None if output.loss is None else 2 * output.loss
        return output


def doubled() -> nn.Module:
    return Doubled(transformers.BertConfig(**SMALL, num_labels=3))


ROWS = {"input_ids": IDS, "labels": CLASSES}
REFUSED = [
    (lambda: nn.Linear(2, 2), ROWS, r"there is no loss, and Linear is no model of transformers(.|\n)*pass loss="),
    (lambda: bert("Model"), ROWS, r"BertModel takes no labels(.|\n)*with a head"),
    (lambda: bert(num_labels=3), {"input_ids": IDS}, r"needs labels, and the batch has input_ids(.|\n)*-100"),
    (lambda: bert(num_labels=3), {"x": IDS, "y": CLASSES}, r"needs inputs of the model(.|\n)*input_ids"),
    (lambda: bert(num_labels=2), ROWS, r"out of bounds(.|\n)*largest label is 2, and the model has num_labels=2"),
    (lambda: bert(num_labels=3), {**ROWS, "input_ids": IDS + 9}, r"largest token is 3\d, and the model's vocab"),
    (doubled, ROWS, r"Doubled computes its loss in a way of its own(.|\n)*pass loss="),
]


@pytest.mark.parametrize(("make", "data", "says"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_what_it_cannot_train_is_told(fit, make: Any, data: Any, says: str) -> None:
    with pytest.raises(HotloopError, match=says):
        fit(make(), data, max_steps=2, batch_size=24)
