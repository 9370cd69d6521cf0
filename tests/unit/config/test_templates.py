"""Every template that is shipped loads for every task that can use it, on both kinds of device."""

from __future__ import annotations

import pytest
from tests.unit.config.options import TOY

from hotloop.config.load import Loaded, load
from hotloop.config.recipes import FOLDER, available
from hotloop.errors import ConfigError
from hotloop.tasks import BUILTIN, options_of
from hotloop.tasks.gpt.options import OPTIONS as GPT

CASES = [(options, name) for options in (TOY, *map(options_of, BUILTIN)) for name in available(options.name)]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize(("options", "name"), CASES, ids=lambda case: getattr(case, "name", case))
def test_it_loads(options: object, name: str, kind: str) -> None:
    loaded: Loaded = load(options, templates=[name], device_kind=kind)  # type: ignore[arg-type]
    stems = {f"template {name}", f"template {name}_cuda"}
    assert stems & set(loaded.origins.values())


def test_all_files_are_covered() -> None:
    files = {path.stem.removesuffix("_cuda") for path in FOLDER.rglob("*.yaml")}
    assert files == {name for _, name in CASES}
    assert len(CASES) >= 10


def test_nanogpt_is_the_published_recipe() -> None:
    config = load(GPT, templates=["nanogpt"]).config
    model, training, optimization = config.model.model_dump(), config.training, config.optimization
    assert [model[key] for key in ("n_layer", "n_head", "n_embd", "block_size", "dropout")] == [4, 4, 128, 64, 0.0]
    assert (training.max_steps, training.batch_size, training.precision, training.compile) == (2000, 12, "fp32", "off")
    assert (optimization.learning_rate, optimization.min_lr, optimization.betas) == (1e-3, 1e-4, (0.9, 0.99))
    assert round((optimization.warmup_ratio or 0) * 2000) == 100


def test_a_recipe_behind_another_adds_its_own_values_only() -> None:
    loaded = load(GPT, templates=["nanogpt", "memory_efficient"])
    training = loaded.config.training
    assert (training.max_steps, training.batch_size * training.gradient_accumulation_steps) == (2000, 12)
    assert training.batch_size == 6
    assert loaded.config.optimization.gradient_checkpointing
    assert loaded.notes == (
        "template memory_efficient: micro-batch 12 -> 6, accumulation 1 -> 2, effective batch unchanged (12)",
    )


def test_the_device_decides_which_default_is_meant() -> None:
    assert load(GPT, device_kind="cuda").origins["training.max_steps"] == "template default_cuda"
    assert (
        load(GPT, device_kind="cuda", arguments=["--device", "cpu"]).origins["training.max_steps"] == "template default"
    )
    assert load(GPT, arguments=["--gpu"]).origins["training.max_steps"] == "template default_cuda"


@pytest.mark.parametrize("name", ["../default", "gpt/nanogpt", "", "."])
def test_a_template_is_a_name_not_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match="no such template"):
        load(GPT, templates=[name])
