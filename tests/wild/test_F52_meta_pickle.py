"""F52: a file that runs code when loaded. meta.pkl comes from strangers; it is read as data and its code never runs."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from hotloop.errors import HotloopError
from hotloop.tasks.gpt.binary import read_meta_pickle, read_token_folder


class Payload:
    """Makes a folder when it is unpickled by an ordinary unpickler."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def test_the_payload_is_real(tmp_path):
    pickle.loads(pickle.dumps(Payload(str(tmp_path / "trace"))))
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_meta_pkl_with_code_is_refused_and_not_run(tmp_path, protocol):
    trace = tmp_path / "trace"
    meta = {"vocab_size": 2, "itos": {0: "a", 1: "b"}, "stoi": {"a": 0, "b": 1}, "extra": Payload(str(trace))}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta, protocol))
    for name in ("train.bin", "val.bin"):
        np.zeros(100, dtype=np.uint16).tofile(tmp_path / name)
    with pytest.raises(HotloopError, match=r"asks to import '\w+.mkdir', which could run code; nothing of it was run"):
        read_token_folder(tmp_path)
    assert not trace.exists()


def test_builtins_are_refused_as_well(tmp_path):
    (tmp_path / "meta.pkl").write_bytes(b"cbuiltins\neval\n(S'1/0'\ntR.")
    with pytest.raises(HotloopError, match=r"builtins.eval"):
        read_meta_pickle(tmp_path / "meta.pkl")


def test_a_plain_meta_pkl_is_read(tmp_path):
    meta = {"vocab_size": 2, "itos": {0: "a", 1: "b"}, "stoi": {"a": 0, "b": 1}}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    assert read_meta_pickle(tmp_path / "meta.pkl").encode("ba").tolist() == [1, 0]
