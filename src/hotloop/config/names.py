"""Which knob is meant: full names, short names, misplaced and misspelled ones, and keys planned for later.

A dotted name is `section.key`. A short name stands for a knob only where it is unique. A name that is none of ours
always ends in a message that names the nearest right one.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache

from hotloop.config.kinds import Kind
from hotloop.config.schema import TaskOptions, sections
from hotloop.config.section import kinds_of

# Short names that people know from elsewhere. The right side is a key, or an alias that `aliases` then explains.
SHORT = {
    "epochs": "training.num_epochs",
    "max_iters": "training.max_steps",
    "amp": "training.amp",
    "fp16": "training.fp16",
    "bf16": "training.bf16",
    "out_dir": "experiment.dir",
    "model_type": "model.name",
    "eta_min": "optimization.eta_min",
    "grad_clip": "optimization.grad_clip",
    "lr_decay_iters": "optimization.lr_decay_iters",
    "dropout_rate": "model.dropout_rate",
    "memory_efficient_attention": "optimization.memory_efficient_attention",
}
# Keys whose feature is not in this version: known, never ignored, refused by name.
PLANNED = {
    "model": "name num_labels dropout max_sequence_length hidden_size num_layers n_layer n_head n_embd block_size "
    "layer_norm attention_pooling tasks task_weights use_multitask",
    "data": "train_path val_path test_path split folds min_length max_length balance_sampler use_sample_weights "
    "weights_clip weights_normalize on_conflict",
    "training": "parallel",
    "doctor": "preflight health_every",
}
PLANNED_VALUES = {
    "optimization.optimizer": ("adam8bit", "paged_adamw8bit"),
    "experiment.trackers": ("mlflow", "wandb"),
    "doctor.on_nan": ("rollback",),
}
# What other programs call a knob; only used to point to the right name.
ELSEWHERE = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "bs": "batch_size",
    "clip": "max_grad_norm",
    "clip_grad_norm": "max_grad_norm",
    "gradient_clip_val": "max_grad_norm",
    "gradient_clipping": "max_grad_norm",
    "accumulation_steps": "gradient_accumulation_steps",
    "accumulate_grad_batches": "gradient_accumulation_steps",
    "grad_accum": "gradient_accumulation_steps",
    "iterations": "max_steps",
    "max_iters": "max_steps",
    "max_epochs": "num_epochs",
    "epochs": "num_epochs",
    "scheduler": "lr_scheduler",
    "warmup": "warmup_ratio",
    "warmup_iters": "warmup_steps",
    "patience": "early_stopping_patience",
    "workers": "num_workers",
    "eval_interval": "eval_every",
    "log_interval": "log_every",
    "eval_steps": "eval_every",
    "logging_steps": "log_every",
    "save_steps": "checkpoint_every",
    "output_dir": "dir",
    "beta1": "betas",
    "beta2": "betas",
    "mixed_precision": "precision",
    "dtype": "precision",
    "random_seed": "seed",
    "layers": "n_layer",
    "heads": "n_head",
}


@dataclass(frozen=True)
class Names:
    """All knobs of one task by dotted name, and the sections in order."""

    task: str
    kinds: dict[str, Kind]
    sections: tuple[str, ...]

    def placed(self, key: str) -> list[str]:
        """The knobs that `key` (dotted, `section_key`, or short) can mean; several when it is ambiguous."""
        if "." in key:
            return [key] if key in self.kinds else []
        section, _, rest = key.partition("_")
        if f"{section}.{rest}" in self.kinds:
            return [f"{section}.{rest}"]
        return [dotted for dotted in self.kinds if dotted.partition(".")[2] == key]

    def planned(self, key: str) -> str | None:
        """The dotted name of a key whose feature is not in this version, if `key` means one."""
        section, dot, name = key.partition(".")
        if dot:
            return key if key not in self.kinds and name in PLANNED.get(section, "").split() else None
        split_section, _, rest = key.partition("_")
        if rest in PLANNED.get(split_section, "").split():
            return f"{split_section}.{rest}"
        return next((f"{section}.{key}" for section, keys in PLANNED.items() if key in keys.split()), None)

    def nearest(self, key: str) -> str:
        """Advice for a name that is no knob: the right place, or the name most alike."""
        section, dot, name = key.partition(".")
        if not dot:
            section, name = "", key
        name = name.partition(".")[0] if section in self.sections else name
        elsewhere = self.placed(ELSEWHERE.get(name, name)) if "." not in name else []
        if elsewhere:
            return f"write {' or '.join(elsewhere)}"
        dotted = difflib.get_close_matches(key, self.kinds, n=1, cutoff=0.75) if dot else []
        bare = {known.partition(".")[2]: known for known in self.kinds}
        inside = {short: known for short, known in bare.items() if known.startswith(f"{section}.")}
        close = difflib.get_close_matches(name, inside, n=1, cutoff=0.6) or difflib.get_close_matches(name, bare, n=1)
        if dotted or close:
            return f"did you mean {dotted[0] if dotted else inside.get(close[0], bare[close[0]])}?"
        wrong_section = difflib.get_close_matches(section, self.sections, n=1) if dot else []
        return f"did you mean the section {wrong_section[0]}?" if wrong_section else "`hotloop knobs` lists every key"


@cache
def names_of(options: TaskOptions) -> Names:
    """The names of a task's knobs."""
    parts = sections(options)
    found = {f"{name}.{key}": kind for name, part in parts.items() for key, kind in kinds_of(part).items()}
    return Names(options.name, found, tuple(parts))
