"""The built-in models and those of transformers, recomputed: the same to the bit (or to rounding), and less is kept."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.unit.engine.recomputed import Built, equal, passes, wrapped
from torch import nn

from hotloop.engine import recompute
from hotloop.tasks.classify.model import Classifier, SmallEncoder
from hotloop.tasks.classify.options import ClassifyModel
from hotloop.tasks.forecast.model import Forecaster
from hotloop.tasks.forecast.options import ForecastModel
from hotloop.tasks.gpt.model import Transformer
from hotloop.tasks.gpt.options import GptModel
from hotloop.tasks.lob.model import DeepLob
from hotloop.tasks.lob.options import LobModel
from hotloop.tasks.translate.model import Translator
from hotloop.tasks.translate.options import TranslateModel


def gpt(dropout: float) -> Built:
    ids = torch.randint(0, 20, (4, 32))
    return Transformer(
        GptModel(n_layer=4, n_head=2, n_embd=32, block_size=32, dropout=dropout), 20
    ), lambda model: model(ids)


def translate(dropout: float) -> Built:
    options = TranslateModel(hidden_size=32, n_head=2, ff_size=64, num_layers=2, dropout=dropout)
    source, target = torch.randint(1, 20, (4, 12)), torch.randint(1, 20, (4, 10))
    return Translator(options, 20), lambda model: model(source, target)


def classify(dropout: float) -> Built:
    options = ClassifyModel(hidden_size=32, n_head=2, num_layers=3, dropout=dropout, encoder_dropout=dropout)
    ids = torch.randint(0, 50, (4, 24))
    return Classifier(SmallEncoder(options, 50), 32, {"a": 3}, options, 0), lambda model: model(ids)["a"]


def forecaster(name: str, dropout: float) -> Built:
    options = ForecastModel(name=name, hidden_size=16, n_head=2, num_layers=2, patch=2, dropout=dropout)
    x, symbol = torch.randn(6, 16, 3), torch.zeros(6, dtype=torch.long)
    model = Forecaster(options, 3, (0, 1), 1, 16, 4, norm="none")
    nn.init.normal_(model.leave.weight, std=0.1)  # it starts at zero, which would leave the encoder without a gradient
    return model, lambda net: net(x, symbol)


def lob(dropout: float) -> Built:
    x = torch.randn(4, 40, 40)
    return DeepLob(LobModel(channels=4, inception_channels=4, hidden_size=8, dropout=dropout), 40), lambda net: net(x)


BUILTIN: dict[str, Callable[[float], Built]] = {
    "gpt": gpt,
    "translate": translate,
    "classify": classify,
    "lstm": lambda dropout: forecaster("lstm", dropout),
    "gru": lambda dropout: forecaster("gru", dropout),
    "transformer": lambda dropout: forecaster("transformer", dropout),
    "lob": lob,
}
BLOCKS = {"gpt": 4, "translate": 4, "classify": 3, "lstm": 1, "gru": 1, "transformer": 2, "lob": 4}


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_models_give_the_same_to_the_bit_and_keep_less(name, dropout, bf16):
    torch.manual_seed(0)
    model, call = BUILTIN[name](dropout)
    assert len(recompute.blocks_of(model)) == BLOCKS[name]
    assert recompute.supports(model)
    everything, plain = passes((copy.deepcopy(model), call), False, bf16=bf16)
    little, again = passes((copy.deepcopy(model), call), True, bf16=bf16)
    some, partly = passes((copy.deepcopy(model), call), 0.5, bf16=bf16)
    assert equal(plain, again) and equal(plain, partly)
    assert little < 0.5 * everything
    assert little < some < everything or BLOCKS[name] == 1


def bert(kind: str = "BertModel", **more: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.AutoConfig.for_model(kind.removesuffix("Model").lower(), vocab_size=50, **sizes, **more)
    return getattr(transformers, kind)(config).train()


@pytest.mark.parametrize("how", [True, 0.5, ("encoder.layer.*",)])
def test_models_of_transformers_give_the_same_and_come_back_clean(how):
    ids = torch.randint(4, 50, (3, 12), generator=torch.Generator().manual_seed(1))
    everything, plain = passes((bert(), lambda model: model(input_ids=ids).last_hidden_state), False)
    model = bert()
    with recompute.put_back(model):
        little, again = passes((model, lambda model: model(input_ids=ids).last_hidden_state), how)
        assert wrapped(model) and not model.encoder.layer[0].gradient_checkpointing
    assert equal(plain, again) and little < 0.6 * everything
    assert wrapped(model) == []
    pickle.dumps(model)  # no hook is left that a file could not hold


def test_a_key_value_cache_does_not_grow_in_the_second_run() -> None:
    transformers = pytest.importorskip("transformers")
    ids = torch.randint(4, 50, (3, 12), generator=torch.Generator().manual_seed(1))
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 16, "bos_token_id": 1, "eos_token_id": 1}
    found = []
    for how in (False, 0.5):
        torch.manual_seed(0)
        model = transformers.GPT2Model(transformers.GPT2Config(vocab_size=50, **sizes))
        found.append(passes((model, lambda model: model(input_ids=ids).last_hidden_state), how)[1])
    for one, other in zip(*found, strict=True):  # not to the bit: without a cache its keys lie otherwise in memory
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("how", [True, 0.5, ("encoder.layer.1",)])
def test_a_compiled_encoder_of_transformers_keeps_less(how):
    """Through torch's compiler up to the split into forward and backward; building kernels would add nothing here."""
    ids = torch.randint(4, 50, (3, 12), generator=torch.Generator().manual_seed(1))
    kept = []
    for mode in (False, how):
        model = bert()
        call = torch.compile(
            lambda net: net(input_ids=ids).last_hidden_state, dynamic=False, backend="aot_eager_decomp_partition"
        )
        with recompute.put_back(model):
            kept.append(passes((model, call), mode))
        torch._dynamo.reset()
    (everything, plain), (little, again) = kept
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert little < everything
