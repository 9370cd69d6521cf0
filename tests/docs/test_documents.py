"""The documents are executed: their Python runs, their YAML loads, their commands, keys and links exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs" / "guide").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    """(page and number, text) of every fenced block in that language."""
    found = []
    for page in PAGES:
        texts = [text for name, text in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]
        found += [(f"{page.name}:{number}", text) for number, text in enumerate(texts, 1)]
    return found


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_the_documents_have_what_is_tested_here():
    assert len(PAGES) >= 4
    assert len(blocks("python")) >= 3
    assert len(blocks("yaml")) >= 1


@pytest.mark.parametrize(("name", "text"), blocks("python"), ids=[name for name, _ in blocks("python")])
def test_python_in_the_documents_runs(name, text, tmp_path):
    done = python("-W", "error::FutureWarning", "-c", text, cwd=tmp_path)
    assert done.returncode == 0, f"{name}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize(("name", "text"), blocks("yaml"), ids=[name for name, _ in blocks("yaml")])
def test_yaml_in_the_documents_is_a_configuration(name, text, tmp_path):
    from hotloop.config.load import load
    from hotloop.tasks import options_of

    file = tmp_path / "documented.yaml"
    file.write_text(text, encoding="utf-8")
    task = re.search(r"^task: (\w+)$", text, re.MULTILINE)
    assert task is not None, "a page says which task its configuration is for"
    loaded = load(options_of(task[1]), file=file)
    if task[1] == "gpt":
        assert loaded.config.experiment.stop_at == {"eval_loss": 1.9}
    else:
        assert (name.split(":")[0], task[1]) == ("classify.md", "classify"), "say here what another page's one means"
        assert loaded.config.model.tasks == {"offensive": ["no", "yes"], "target": 5}


def test_every_command_in_the_documents_exists(tmp_path):
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    commands = set(re.findall(r"(?:^ +|`)hotloop ([a-z][a-z-]+)\b", text, re.MULTILINE))
    assert commands >= {"train", "resume", "runs", "plot", "generate", "knobs", "init", "env"}
    for command in sorted(commands):
        done = python("-m", "hotloop", command, "--help", cwd=tmp_path)
        assert done.returncode == 0, f"hotloop {command}\n{done.stdout}{done.stderr}"


def test_every_key_in_the_documents_exists():
    from hotloop.config.schema import sections
    from hotloop.tasks import BUILTIN, options_of

    typed = [pair for name in BUILTIN for pair in sections(options_of(name)).items()]
    known = {f"{section}.{key}" for section, kind in typed for key in kind.model_fields}
    names = "|".join(dict(typed))
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    found = {f"{a}.{b}" for a, b in re.findall(rf"[`\s\"]({names})\.([a-z_]+)(?=[=`\"])", text)}
    assert len(found) >= 8
    assert found <= known, sorted(found - known)


def test_links_between_the_documents_lead_somewhere():
    pages = [*PAGES, REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    links = [(p, target) for p in pages for target in re.findall(r"\]\(([^)#]+)\)", p.read_text(encoding="utf-8"))]
    local = [(page, target) for page, target in links if "://" not in target]
    assert len(local) >= 5
    missing = [f"{page.name}: {target}" for page, target in local if not (page.parent / target).exists()]
    assert not missing, missing
