"""Recomputed activations: the same loss and gradients to the bit, fewer bytes kept, nothing left behind."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from hotloop.engine import recompute
from hotloop.errors import HotloopError
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

Built = tuple[nn.Module, Callable[[nn.Module], Tensor]]


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


def passes(built: Built, how: recompute.How, *, bf16: bool = False) -> tuple[int, list[Tensor]]:
    """(bytes that the forward pass keeps besides the weights, loss and gradients and buffers after two passes)."""
    model, call = built
    recompute.apply(model.train(), how, compiled=False)
    own, kept = {weight.untyped_storage().data_ptr() for weight in model.parameters()}, {}
    held = []  # so that no two have one address

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        held.append(storage)
        kept.update({} if storage.data_ptr() in own else {storage.data_ptr(): storage.nbytes()})
        return value

    torch.manual_seed(5)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            kept.clear()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
                loss = call(model).float().square().mean()
        loss.backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    found = [loss.detach(), *gradients, *model.state_dict().values()]
    return sum(kept.values()), [value.clone() for value in found]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


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


class Block(nn.Module):
    """Two layers with what changes in training: statistics, a vector of power iteration, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 32), nn.Linear(32, 8)
        self.norm, self.drop = nn.BatchNorm1d(32), nn.Dropout(0.3)

    def forward(self, x: Tensor, *, context_fn: float = 1.0) -> Tensor:
        hidden = self.drop(self.norm(self.enter(x)).relu())
        result: Tensor = x + context_fn * self.leave(hidden)
        return result


class Net(nn.Module):
    """Blocks that are called with a keyword, which checkpoint has one of the same name as."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(depth)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, context_fn=0.5)
        result: Tensor = self.head(x)
        return result


X = torch.randn(10, 8, generator=torch.Generator().manual_seed(1))


def net(depth: int = 6) -> Net:
    torch.manual_seed(0)
    return Net(depth)


def wrapped(model: nn.Module) -> list[str]:
    return [name for name, part in model.named_modules() if "forward" in part.__dict__]


def test_statistics_and_other_buffers_change_once() -> None:
    model = net()
    for block in model.blocks:
        spectral_norm(block.enter)  # each forward pass improves its vectors
    models = [model, copy.deepcopy(model)]
    plain, again = (
        passes((one, lambda model: model(X)), how)[1] for one, how in zip(models, (False, True), strict=True)
    )
    assert equal(plain, again)


@pytest.mark.parametrize(
    ("share", "chosen"), [(0.01, [3]), (0.34, [1, 4]), (0.5, [1, 3, 5]), (0.99, [0, 1, 2, 3, 4, 5])]
)
def test_a_share_is_spread_evenly_and_is_one_block_at_least(share, chosen):
    model = net()
    told = recompute.apply(model, share, compiled=False)
    assert wrapped(model) == [f"blocks.{number}" for number in chosen]
    assert f"{len(chosen)} of 6 blocks" in told[0]


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (("blocks.*",), [f"blocks.{number}" for number in range(6)]),
        (("blocks",), [f"blocks.{number}" for number in range(6)]),
        (("blocks.[03]", "head"), ["blocks.0", "blocks.3", "head"]),
        (("*.drop",), [f"blocks.{number}.drop" for number in range(6)]),
    ],
)
def test_parts_are_named_as_they_are_to_be_frozen(patterns, chosen):
    model = net()
    recompute.apply(model, patterns, compiled=False)
    assert wrapped(model) == chosen


@pytest.mark.parametrize(
    ("patterns", "told"),
    [
        (("block.*",), r"no part of the model is called 'block\.\*'\n.*\n.*did you mean blocks.* or blocks\.\d"),
        (("xyz",), r"no part of the model is called 'xyz'\n.*\n.*the model's parts are blocks, head"),
        (("blocks.0", "*.leave"), r"'blocks.0' names blocks.0, which holds blocks.0.leave of '\*.leave'"),
    ],
)
def test_names_that_are_wrong_are_told_with_the_nearest(patterns, told):
    model = net()
    with pytest.raises(HotloopError, match=told) as failed:
        recompute.apply(model, patterns, compiled=False)
    assert failed.value.where == "optimization.gradient_checkpointing"
    assert wrapped(model) == []


@pytest.mark.parametrize(
    ("model", "how", "fix"),
    [
        (nn.Linear(2, 2), True, "put its layers into an nn.ModuleList"),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), True, r"name parts of it, as in \[0, 1, 2\]"),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), 0.5, "or use training.compile=default"),
    ],
)
def test_a_model_without_blocks_is_told_what_can_be_done(model, how, fix):
    assert not recompute.supports(model)
    with pytest.raises(HotloopError, match=f"has no repeated blocks[^$]*{fix}"):
        recompute.apply(model, how, compiled=False)


def convolution() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.ReLU())


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (nn.Sequential(convolution(), convolution(), nn.Flatten()), ["0", "1"]),
        (nn.Sequential(nn.Sequential(Net(), Net()), nn.Sequential(Net(), Net())), ["0.0", "0.1", "1.0", "1.1"]),
        (nn.ModuleDict({"h": nn.ModuleList([Net(2), Net(2)])}), ["h.0", "h.1"]),
        (nn.ModuleList([Net(1)]), ["0"]),
        (nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), []),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)), []),
    ],
)  # fmt: skip
def test_blocks_are_the_outermost_repeated_parts(model, names):
    assert [name for name, _ in recompute.blocks_of(model)] == names


def test_a_model_says_its_blocks_itself() -> None:
    model = net()
    model.recompute_blocks = lambda: [model.head]  # type: ignore[assignment]
    assert [name for name, _ in recompute.blocks_of(model)] == ["head"]


@pytest.mark.parametrize("carry", ["deepcopy", "pickle", "torch.save"])
def test_copies_and_pickles_recompute_with_their_own_weights(carry):
    model = net()
    recompute.apply(model, True, compiled=False)
    if carry == "deepcopy":
        other: Any = copy.deepcopy(model)
    elif carry == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        other = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    other(X).sum().backward()
    assert all(weight.grad is None for weight in model.parameters())
    assert all(weight.grad is not None for weight in other.parameters())
    recompute.remove(other)
    assert (len(wrapped(model)), wrapped(other)) == (6, [])


def test_outside_of_training_nothing_is_to_be_seen() -> None:
    model, plain = net(), net()
    recompute.apply(model, True, compiled=False)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert torch.equal(model.eval()(X), plain.eval()(X))
    exported = torch.export.export(model, (X,))
    assert torch.equal(exported.module()(X), plain(X))
    assert "checkpoint" not in str(exported.graph)


def test_what_is_applied_again_replaces_what_was() -> None:
    model = net()
    recompute.apply(model, True, compiled=False)
    recompute.apply(model, ("head",), compiled=False)
    assert wrapped(model) == ["head"]
    assert recompute.apply(model, False, compiled=False) == []
    assert wrapped(model) == []


def test_a_forward_of_the_instances_own_is_run_and_comes_back() -> None:
    model, calls = net(), []
    own = model.blocks[0].forward
    mine = model.blocks[0].forward = lambda *args, **kwargs: calls.append(1) or own(*args, **kwargs)
    recompute.apply(model, True, compiled=False)
    model(X).sum().backward()
    assert len(calls) == 2
    recompute.remove(model)
    assert model.blocks[0].__dict__["forward"] is mine
    assert wrapped(model) == ["blocks.0"]


def test_a_plain_switch_of_a_persons_model_is_used_and_put_back() -> None:
    model = net()
    model.gradient_checkpointing = False  # type: ignore[assignment]
    with recompute.put_back(model):
        assert "own switch" in recompute.apply(model, True, compiled=False)[0]
        assert model.gradient_checkpointing is True
        assert wrapped(model) == []
    assert model.gradient_checkpointing is False


def bert(kind: str = "BertModel", **more: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.AutoConfig.for_model(kind.removesuffix("Model").lower(), vocab_size=50, **sizes, **more)
    return getattr(transformers, kind)(config).train()


@pytest.mark.parametrize("how", [True, 0.5, ("encoder.layer.*",)])
def test_models_of_transformers_by_their_own_switch_or_by_blocks(how):
    ids = torch.randint(4, 50, (3, 12), generator=torch.Generator().manual_seed(1))
    everything, plain = passes((bert(), lambda model: model(input_ids=ids).last_hidden_state), False)
    model = bert()
    with recompute.put_back(model):
        little, again = passes((model, lambda model: model(input_ids=ids).last_hidden_state), how)
        assert model.encoder.layer[0].gradient_checkpointing is (how is True)
    assert equal(plain, again) and little < 0.6 * everything
    assert not model.encoder.layer[0].gradient_checkpointing and wrapped(model) == []
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


def test_the_compilers_budget_is_for_models_without_blocks_and_put_back() -> None:
    import torch._functorch.config as compiler

    layers = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    before = compiler.activation_memory_budget
    assert "keeps 25% of the activations" in recompute.apply(layers, 0.75, compiled=True)[0]
    assert compiler.activation_memory_budget == 0.25
    recompute.remove(layers)
    assert compiler.activation_memory_budget == before
    recompute.apply(net(), 0.5, compiled=True)
    assert compiler.activation_memory_budget == before
    with pytest.raises(HotloopError, match="has no repeated blocks"):
        recompute.apply(layers, True, compiled=True)


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
