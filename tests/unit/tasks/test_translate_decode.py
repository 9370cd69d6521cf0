"""Writing with a cache says what the whole model says; a beam finds the best; chrF adds up."""

from __future__ import annotations

import itertools

import pytest
import torch

from hotloop.tasks.characters import BOS, EOS, PAD
from hotloop.tasks.translate.chrf import chrf_counts, chrf_score
from hotloop.tasks.translate.decode import beam_search, greedy
from hotloop.tasks.translate.model import Translator
from hotloop.tasks.translate.options import TranslateModel

SMALL = {"hidden_size": 16, "num_layers": 2, "n_head": 2, "ff_size": 32, "max_sequence_length": 12}
FIRST = 5  # 4 is a tag
SRC = torch.tensor([[5, 6, 7, 8, PAD, PAD], [7, 5, PAD, PAD, PAD, PAD], [4, 5, 6, 7, 8, 7]])


def model(seed: int = 0, vocabulary: int = 9) -> Translator:
    torch.manual_seed(seed)
    net = Translator(TranslateModel(**SMALL), vocabulary).eval()
    torch.nn.init.normal_(net.embedding.weight, std=1.0)  # decided, so that no two tokens are nearly as likely
    return net


def likeliest(net: Translator, src: torch.Tensor, longest: int) -> list[int]:
    """The whole model asked again for each token."""
    written: list[int] = []
    while len(written) < longest and EOS not in written:
        logits = net(src[None], torch.tensor([[BOS, *written]]))[0, -1].clone()
        logits[[i for i in range(len(logits)) if i < FIRST and i != EOS]] = float("-inf")
        written.append(int(logits.argmax()))
    return written


@pytest.mark.parametrize("seed", range(4))
def test_greedy_with_a_cache_is_greedy_without(seed: int) -> None:
    net = model(seed)
    found = greedy(net, SRC, 10, FIRST)
    for row, src in zip(found.tolist(), SRC, strict=True):
        wanted = likeliest(net, src, 10)
        assert row[: len(wanted)] == wanted
        assert set(row[len(wanted) :]) <= {PAD}


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    net = model(seed)
    assert beam_search(net, SRC, 10, FIRST, 1, 0.6).tolist() == greedy(net, SRC, 10, FIRST).tolist()


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_best_of_all(seed: int, penalty: float) -> None:
    net, longest, text = model(seed), 3, [EOS, 5, 6, 7, 8]
    found = beam_search(net, SRC[:1], longest, FIRST, 64, penalty)[0].tolist()
    best, best_score = None, float("-inf")
    for tokens in itertools.product(text, repeat=longest):
        cut = list(tokens[: tokens.index(EOS) + 1]) if EOS in tokens else list(tokens)
        logits = net(SRC[:1], torch.tensor([[BOS, *cut[:-1]]]))[0]
        logits[:, [0, 1, 2, 4]] = float("-inf")
        score = logits.log_softmax(-1).gather(1, torch.tensor(cut)[:, None]).sum().item() / len(cut) ** penalty
        best, best_score = (cut, score) if score > best_score + 1e-6 else (best, best_score)
    assert found[: len(best)] == best
    assert set(found[len(best) :]) <= {PAD}


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    net = model()
    for search in (lambda s: greedy(net, s, 10, FIRST), lambda s: beam_search(net, s, 10, FIRST, 3, 0.6)):
        whole = search(SRC)
        for row in range(3):
            alone = search(SRC[row : row + 1])[0].tolist()
            assert [i for i in alone if i] == [i for i in whole[row].tolist() if i]


def test_chrf_of_parts_adds_up_to_the_whole() -> None:
    from sacrebleu.metrics import CHRF

    outputs, wanted = ["今天下雨。", "我爱你", "", "abc def"], ["今天天气阴沉下雨了。", "我爱你", "晚安", "abd def"]
    counts = chrf_counts(outputs[:1], wanted[:1]) + chrf_counts(outputs[1:], wanted[1:])
    assert chrf_score(counts) == pytest.approx(CHRF().corpus_score(outputs, [wanted]).score, abs=1e-9)
