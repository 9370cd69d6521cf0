"""F31: data absent, and the script invents some. A path that leads nowhere stops; the default is used only unasked."""

from __future__ import annotations

import pytest

from hotloop.errors import HotloopError
from hotloop.tasks.gpt.options import GptData, GptModel
from hotloop.tasks.gpt.task import Gpt


@pytest.mark.parametrize("name", ["absent.txt", "absent/folder/", "absent/train.bin"])
def test_a_path_that_leads_nowhere_is_an_error(tmp_path, name):
    task = Gpt(GptModel(), GptData(path=str(tmp_path / name)), seed=1)
    with pytest.raises(HotloopError, match="does not exist"):
        task.sources()
    assert task.vocabulary is None


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(HotloopError, match=r"holds no train.bin and val.bin"):
        Gpt(GptModel(), GptData(path=str(tmp_path)), seed=1).sources()


def test_without_a_path_the_text_used_is_named():
    task = Gpt(GptModel(), GptData(), seed=1)
    task.sources()
    assert "manual of Python" in task.notes()[0]
    assert "no data.path given" in task.notes()[0]
