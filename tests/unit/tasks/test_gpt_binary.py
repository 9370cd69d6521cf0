"""nanoGPT's token files: written and read back, and refused where they are damaged."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from click.testing import CliRunner

from hotloop.cli.prepare import command as prepare
from hotloop.errors import HotloopError
from hotloop.tasks.gpt.binary import read_token_folder, write_token_folder
from hotloop.tasks.gpt.vocabulary import BareIds, Characters

TEXT = "the quick brown fox jumps over the lazy dog\n" * 30


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "text.txt"
    source.write_text(TEXT)
    write_token_folder(source, tmp_path / "bins")
    return tmp_path / "bins"


def test_what_was_written_is_read_back(folder):
    files = read_token_folder(folder)
    cut = int(len(TEXT) * 0.9)
    assert files.vocabulary == Characters("".join(sorted(set(TEXT))))
    assert files.vocabulary.decode(files.train.tolist()) == TEXT[:cut]
    assert files.vocabulary.decode(files.val.tolist()) == TEXT[cut:]
    assert isinstance(files.train, np.memmap)


def test_the_layout_is_that_of_nanogpt(folder):
    meta = pickle.loads((folder / "meta.pkl").read_bytes())
    assert set(meta) == {"vocab_size", "itos", "stoi"}
    ids = np.fromfile(folder / "val.bin", dtype=np.uint16)
    assert "".join(meta["itos"][token] for token in ids) == TEXT[int(len(TEXT) * 0.9) :]
    assert all(meta["stoi"][meta["itos"][token]] == token for token in range(meta["vocab_size"]))


def test_meta_pkl_alone_is_enough(folder):
    (folder / "meta.json").unlink()
    files = read_token_folder(folder)
    assert isinstance(files.vocabulary, Characters)
    assert "meta.pkl" in files.note


def test_without_any_meta_the_ids_stay_bare_and_this_is_said(folder):
    (folder / "meta.json").unlink()
    (folder / "meta.pkl").unlink()
    files = read_token_folder(folder)
    assert files.vocabulary == BareIds(len(set(TEXT)))
    assert "no meta.pkl" in files.note


def test_an_odd_number_of_bytes_is_refused(folder):
    with (folder / "train.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(HotloopError, match=r"train.bin' has [\d,]+ bytes; a token file has two for each token"):
        read_token_folder(folder)


def test_an_empty_token_file_is_refused(folder):
    (folder / "val.bin").write_bytes(b"")
    with pytest.raises(HotloopError, match="val.bin' has 0 bytes"):
        read_token_folder(folder)


def test_a_missing_part_is_named(folder):
    (folder / "val.bin").unlink()
    with pytest.raises(HotloopError, match=r"val.bin' does not exist"):
        read_token_folder(folder)


def test_an_id_outside_the_vocabulary_is_found_with_its_place(folder):
    ids = np.fromfile(folder / "val.bin", dtype=np.uint16)
    ids[5] = 999
    ids.tofile(folder / "val.bin")
    with pytest.raises(HotloopError, match=r"token 5 of val.bin is id 999, but the vocabulary has 28 tokens"):
        read_token_folder(folder)


def test_two_descriptions_that_disagree_are_refused(folder):
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 50}))
    with pytest.raises(HotloopError, match="describe different vocabularies"):
        read_token_folder(folder)


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        (b"not a pickle", "not a whole pickle"),
        (b"", "not a whole pickle"),
        (pickle.dumps([1, 2]), "names no vocab_size"),
        (pickle.dumps({"vocab_size": True}), "names no vocab_size"),
        (pickle.dumps({"vocab_size": 2, "itos": {0: "a"}, "stoi": {"a": 0}}), "itos must map"),
        (pickle.dumps({"vocab_size": 1, "itos": {0: "a"}, "stoi": {"a": 1}}), "stoi and itos do not say the same"),
        (pickle.dumps({"vocab_size": 1, "itos": {0: "a"}}), "stoi and itos do not say the same"),
    ],
)
def test_a_damaged_meta_pkl_is_refused(folder, meta, said):
    (folder / "meta.json").unlink()
    (folder / "meta.pkl").write_bytes(meta)
    with pytest.raises(HotloopError, match=said) as caught:
        read_token_folder(folder)
    assert "meta.pkl" in caught.value.where


def test_a_damaged_meta_json_is_refused(folder):
    (folder / "meta.pkl").unlink()
    (folder / "meta.json").write_text(json.dumps({"vocab_size": 3}))
    with pytest.raises(HotloopError, match="cannot be read") as caught:
        read_token_folder(folder)
    assert "meta.json" in caught.value.where


def test_existing_token_files_are_never_overwritten(folder, tmp_path):
    before = (folder / "train.bin").read_bytes()
    with pytest.raises(HotloopError, match="holds token files already"):
        write_token_folder(tmp_path / "text.txt", folder)
    assert (folder / "train.bin").read_bytes() == before


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    source = tmp_path / "text.txt"
    source.write_text(TEXT)
    with pytest.raises(HotloopError, match="cannot be written"):
        write_token_folder(source, source / "below_a_file")


def test_the_command_counts_what_it_wrote(tmp_path):
    source = tmp_path / "text.txt"
    source.write_text(TEXT)
    done = CliRunner().invoke(prepare, ["gpt", str(source), str(tmp_path / "bins")])
    assert done.exit_code == 0, done.output
    assert f"{len(TEXT):,} characters, vocabulary of 28" in done.output
    assert len(read_token_folder(tmp_path / "bins").train) == int(len(TEXT) * 0.9)


def test_byte_pairs_are_written_and_read_back(tmp_path):
    pytest.importorskip("tokenizers")
    source = tmp_path / "text.txt"
    source.write_text(TEXT)
    counts = write_token_folder(source, tmp_path / "bins", kind="bpe", vocabulary_size=270)
    files = read_token_folder(tmp_path / "bins")
    assert files.vocabulary.size == counts["vocabulary_size"]
    assert files.vocabulary.decode(files.train.tolist()) == TEXT[: int(len(TEXT) * 0.9)]
