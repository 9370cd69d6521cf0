"""The loss of a model of Hugging Face's `transformers`, which knows its own: unreduced, so that it is weighed right.

Nothing is imported from there: a model is known by its class's name. The model's own loss is a mean, and means of
micro-batches do not average to the mean of their batch; so the loss is computed here out of the logits, label by label,
with labels of -100 left out. The first time it is compared with the model's own, and a model that does it in another
way is refused. Shapes: B rows, T tokens, C classes; logits (B, C) or (B, T, C), labels (B,), (B, C) or (B, T).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hotloop.engine.blame import described
from hotloop.errors import HotloopError
from hotloop.task import Batch

_LABELS = ("labels", "label", "y")
_OURS = {"weight", "sample_weight", "group"}  # columns that the model is not meant to take
_IGNORED = -100
_NEAR = 1e-2  # of the model's own loss, whose logits may be half-precision numbers
_SHIFTED = ("ForCausalLM", "LMHeadModel")  # these models predict the token after each


def is_pretrained(model: Any) -> bool:
    """Whether this is a model of transformers (or of peft around one), found out by its class's name."""
    kinds = [f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(_base(model)).__mro__]
    return "transformers.PreTrainedModel" in kinds


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class OwnLoss:
    """The loss of a model of transformers, as the mean over the labels that count.

    Args:
        net: the model.

    Raises:
        HotloopError: a model without a head, whose forward pass takes no labels.
    """

    def __init__(self, net: nn.Module) -> None:
        base = _base(net)
        self._name, self._config = type(base).__name__, base.config
        takes = list(inspect.signature(base.forward).parameters)
        if "labels" not in takes:
            raise HotloopError(
                f"{self._name} takes no labels, so it has no loss of its own",
                where="loss",
                fix="use a model with a head (AutoModelForSequenceClassification, say), or pass loss=(model, batch)",
            )
        self._takes = [name for name in takes if name not in ("labels", "return_dict", "kwargs", "args")]
        self._shifted = any(word in kind.__name__ for kind in type(base).__mro__ for word in _SHIFTED)
        self._compared = False
        self.unused: list[str] = []
        """Columns of the data that the model does not take; known once a batch was seen."""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the labels of the batch, each times its weight, 0-d."""
        labels, inputs = self._read(batch)
        try:
            values, own = self._values(model, inputs, labels)
        except (IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError | HotloopError):
                raise
            raise self._told(error, batch, labels) from error
        counts = self._counts(labels)
        if own is not None:
            self._compare(float(own), _mean(values, counts))
        return _mean(values, _weighed(counts, batch))

    def weight(self, batch: Batch) -> Tensor:
        """What that mean was taken over: the total weight of the labels, 0-d."""
        return _weighed(self._counts(self._read(batch)[0]), batch).sum()

    def _read(self, batch: Batch) -> tuple[Tensor, Batch]:
        """Labels, and the inputs that the model takes."""
        inputs = {name: batch[name] for name in self._takes if name in batch}
        found = next((name for name in _LABELS if name in batch), None)
        if found is None or not inputs:
            missing = "labels" if found is None else "inputs of the model"
            raise HotloopError(
                f"{self._name} needs {missing}, and the batch has {', '.join(batch)}",
                where="the data",
                fix=f"name the columns labels and {', '.join(self._takes[:3])}; for a language model, labels are the "
                "input_ids, with -100 where a token is not to be counted",
            )
        self.unused = [name for name in batch if name not in inputs and name != found and name not in _OURS]
        return batch[found], inputs

    def _counts(self, labels: Tensor) -> Tensor:
        """Which labels count, float32, shaped like the loss values: (B,) or (B, T)."""
        if labels.is_floating_point():
            return torch.ones(len(labels), device=labels.device)
        counts = (labels != _IGNORED).float()
        if self._shifted and labels.dim() == 2:
            counts[:, 0] = 0.0  # nothing stands before the first token to predict it from
        return counts

    def _values(self, model: nn.Module, inputs: Batch, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Unreduced loss values, and the first time the model's own loss."""
        whole = not self._compared or self._config.is_encoder_decoder  # a decoder's inputs are made out of the labels
        wanted = labels if labels.is_floating_point() else labels.long()
        output = model(**inputs, labels=wanted) if whole else model(**inputs)
        logits, own = output.logits, output.loss if whole else None
        return self._by_label(logits.float(), wanted), None if self._compared or own is None else own.detach()

    def _by_label(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self._shifted and labels.dim() == 2:
            later = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
            return F.pad(later, (1, 0))
        regression = self._config.problem_type == "regression" or logits.shape[-1] == 1
        if labels.is_floating_point() or regression:
            apart = F.mse_loss if regression else F.binary_cross_entropy_with_logits
            values = apart(logits.reshape(labels.shape), labels.float(), reduction="none")
            return values.flatten(1).mean(1) if values.dim() > 1 else values
        return F.cross_entropy(logits.movedim(-1, 1), labels, reduction="none")

    def _compare(self, own: float, ours: Tensor) -> None:
        """Refuse a model whose own loss is another than the one computed here."""
        found = float(ours.detach())
        if own != own:  # no label counts in these rows, so there is nothing to compare
            return
        if abs(own - found) > _NEAR * max(1.0, abs(own)):
            raise HotloopError(
                f"{self._name} computes its loss in a way of its own: {own:.6g}, and cross entropy gives {found:.6g}",
                where="loss",
                fix="pass loss=(model, batch) -> one value a row",
            )
        self._compared = True

    def _told(self, error: Exception, batch: Batch, labels: Tensor) -> HotloopError:
        """What a model said of a batch, with what is likely wrong."""
        said = (str(error).strip().splitlines() or [""])[0]
        ids, known = batch.get("input_ids"), getattr(self._config, "vocab_size", None)
        classes = getattr(self._config, "num_labels", None)
        fix = f"the batch was {described(batch)}"
        if "out of bounds" in said and classes is not None:
            fix = f"the largest label is {int(labels.max())}, and the model has num_labels={classes}; {fix}"
        elif ids is not None and ids.numel() and known is not None and int(ids.max()) >= known:
            fix = f"the largest token is {int(ids.max())}, and the model's vocabulary has {known}; {fix}"
        return HotloopError(f"{self._name} raised {type(error).__name__}: {said}", where="the model", fix=fix)


def _weighed(counts: Tensor, batch: Batch) -> Tensor:
    """What counts, times the weights that the batch has."""
    weight = batch.get("weight")
    if weight is None:
        return counts
    return counts * weight.reshape(weight.shape + (1,) * (counts.dim() - weight.dim()))


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """0 where nothing counts."""
    return (values * weight).sum() / weight.sum().clamp(min=1e-30)
