"""The command line at its edge: help, wrong words, exit codes, and who is to blame for what went wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from hotloop.cli import main as entry
from hotloop.cli.main import COMMANDS, PLANNED, SECTIONS, main
from hotloop.errors import CheckStopped, ConfigError, HotloopError, Interrupted, Problem


def _answer(monkeypatch: pytest.MonkeyPatch, behaviour: BaseException) -> int:
    """The exit code of a command that raises."""

    @click.command()
    def failing() -> None:
        raise behaviour

    monkeypatch.setattr(entry.Commands, "get_command", lambda *_: failing)
    return main(["runs"])


def test_help_lists_every_command_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, (_, _, line) in COMMANDS.items():
        assert name in shown
        assert " ".join(line.split()) in " ".join(shown.split())
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(COMMANDS)
    assert all(len(line) <= 80 for line in shown.splitlines())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: hotloop {name}")
    assert len(shown.splitlines()) > 4


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "First steps" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnus"], "there is no command 'rnus'; did you mean `hotloop runs`?"),
        (["xyzzy"], "there is no command 'xyzzy'\n"),
        (["runs", "--rot", "x"], "No such option '--rot'"),
        (["plot"], "Missing argument"),
        (["runs", "extra"], "unexpected extra argument"),
        (["resume", "absent"], "no run at absent"),
        (["train"], "no task named"),
        (["train", "gtp"], "did you mean 'gpt'?"),
        (["knobs", "gtp"], "did you mean 'gpt'?"),
    ],
)
def test_wrong_words_are_the_users_fault(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize("name", PLANNED)
def test_a_command_of_later_versions_is_not_called_unknown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    assert f"`hotloop {name}` is not available in this version" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HotloopError("no data", where="x.txt", fix="name another"), 2),
        (ConfigError([Problem("a.b", 1, "command line", "no such key")] * 5), 2),
        (CheckStopped("the loss is not finite", where="step 7"), 3),
        (Interrupted("interrupted at step 9", fix="hotloop resume RUN"), 4),
    ],
)
def test_errors_are_words_and_exit_codes(
    error: HotloopError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _answer(monkeypatch, error) == code
    out, err = capsys.readouterr()
    assert err == f"error: {error}\n"
    assert out == ""


def test_ctrl_c_is_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _answer(monkeypatch, KeyboardInterrupt()) == 4
    assert capsys.readouterr().err == "interrupted\n"


def test_a_fault_of_ours_is_shown_with_its_traceback(tmp_path: Path) -> None:
    code = (
        "import sys, hotloop.runs.table as table\nfrom hotloop.cli.main import main\n"
        "table._read = lambda path: 1 / 0 if path.name == 'config.json' else {}\n"
        "sys.exit(main(['runs', '--root', sys.argv[1]]))"
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    # In `-c` there is no file to blame, so the innermost real frame is ours.
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "this is a bug in hotloop; please report it with the lines above"


def test_a_fault_in_the_users_own_file_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import json\n\ndef loss():\n    return json.loads('{')\n")
    code = (
        "import click, sys\nimport hotloop.cli.main as entry\nsys.path.insert(0, sys.argv[1])\n"
        "@click.command()\ndef failing():\n    import mine\n    mine.loss()\n"
        "entry.Commands.get_command = lambda *_: failing\nsys.exit(entry.main(['runs']))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: your code raised JSONDecodeError" in done.stderr
    assert "mine.py, line 4, in loss" in done.stderr
    assert "bug in hotloop" not in done.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    line = f'"{sys.executable}" -m hotloop knobs gpt --json | head -1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[", "0"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    "words", [["--help"], ["runs"], ["knobs"], ["knobs", "gpt"], ["train", "--help"], ["schema", "gpt"]]
)
def test_quick_commands_import_no_torch(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from hotloop.cli.main import main; code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'matplotlib', 'tensorboard', 'numpy'} & set(sys.modules)\n"
        "assert code == 0 and not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, *words], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("words", [["--help"], ["runs"], ["knobs"]])
def test_quick_commands_start_in_a_third_of_a_second(words: list[str], tmp_path: Path) -> None:
    # Processor time and the best of twelve: what else the machine does at that moment is not ours.
    assert any(_processor_seconds(words, tmp_path) < 0.3 for _ in range(12))


def _processor_seconds(words: list[str], folder: Path) -> float:
    before = os.times()
    subprocess.run([sys.executable, "-m", "hotloop", *words], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system
