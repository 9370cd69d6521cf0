"""Generated texts in Traditional Chinese with labels for all four tasks: synthetic, for trying things out only.

Each text is put together from a seed: who speaks, what is said in which tone, and filler around it. Labels follow from
the phrases chosen; a share of the phrases says nothing, and a share of the labels is missing on purpose. No real insult
is in it beyond mild ones.
"""

from __future__ import annotations

import numpy as np

from hotloop.data.records import Record
from hotloop.tasks.classify.options import REFERENCE
from hotloop.tasks.classify.read import Sheet

_PURPOSE, _MISSING, _NOISE = 20, 0.15, 0.06  # share of labels that are missing, and of phrases that say nothing
_TOXICITY = (
    ("這個說法我不太同意", "我們可以再討論看看", "謝謝你花時間說明", "這件事我想再想一想", "今天的會議改到三點"),
    ("你講話真的很沒水準", "這種蠢話也說得出口", "拜託不要再丟臉了", "你這人真討厭", "笨手笨腳的真煩"),
    ("你這個垃圾廢物給我閉嘴", "滾出去你這個沒用的東西", "你根本是個垃圾", "爛透了廢物一個", "看到你這種垃圾就想吐"),
)
_BULLYING = (
    ("大家週末一起去爬山吧", "作業放在桌上了", "老師說明天要交報告", "中午要不要一起吃飯", "下雨了記得帶傘"),
    (
        "大家都不要跟他說話",
        "他又在裝可憐了我們別理他",
        "把他的照片貼出來給大家笑",
        "每天都要取笑他一次",
        "不准他加入我們這組",
    ),
    ("放學後你給我等著", "再說一次我就讓你好看", "小心你走夜路", "我知道你家住哪裡", "你敢說出去就試試看"),
)
_ROLE = (
    ("聽說這家店不錯", "車子在路口停下來", "新聞說明天會變冷", "書店今天公休"),
    ("是我叫大家這樣做的", "我就是要整他", "我故意把他的書包藏起來", "是我帶頭笑他的"),
    ("他們每天都這樣對我", "我被他們鎖在廁所裡", "為什麼總是針對我", "我的東西又被丟掉了"),
    ("我在旁邊看到了", "我不知道該不該告訴老師", "當時我們都站在走廊上看", "我看見他們圍著他"),
)
_EMOTION = (
    ("我真的好難過", "心情糟透了", "氣死我了", "越想越委屈", "今天好煩"),
    ("就這樣", "先記下來", "順便說一聲", "如題", "照舊"),
    ("太開心了", "真是美好的一天", "好期待喔", "感謝大家的幫忙", "覺得很溫暖"),
)
_FILLER = ("昨天", "其實", "剛剛在學校", "說真的", "下課的時候", "早上", "在群組裡", "結果", "後來", "回家路上")
_ENDS = ("。", "……", "😅", "😡", "🙂", "")
_COMMA = "、"


def synthetic_sheet(rows: int, seed: int) -> Sheet:
    """So many generated rows, called synthetic.

    Args:
        rows: how many.
        seed: another one gives other texts.
    """
    draw = np.random.default_rng([seed, _PURPOSE])
    return Sheet("synthetic", [Record(_row(draw), number) for number in range(1, rows + 1)])


def _row(draw: np.random.Generator) -> dict[str, str | None]:
    toxicity = int(draw.choice(3, p=(0.5, 0.3, 0.2)))
    bullying = int(draw.choice(3, p=(0.75, 0.15, 0.1) if toxicity == 0 else (0.3, 0.4, 0.3)))
    role = int(draw.choice(4, p=(0.7, 0.1, 0.1, 0.1) if bullying == 0 else (0.1, 0.3, 0.3, 0.3)))
    emotion = int(draw.choice(3, p=(0.2, 0.4, 0.4) if toxicity == 0 else (0.6, 0.3, 0.1)))
    chosen = {"toxicity": toxicity, "bullying": bullying, "role": role, "emotion": emotion}
    banks = {"toxicity": _TOXICITY, "bullying": _BULLYING, "role": _ROLE, "emotion": _EMOTION}
    phrases = []
    for task, label in chosen.items():
        silent = draw.random() < _NOISE  # the phrase is of another class than the label says
        bank = banks[task][int(draw.integers(len(banks[task]))) if silent else label]
        phrases.append(str(draw.choice(bank)))
    draw.shuffle(phrases)
    text = str(draw.choice(_FILLER)) + _COMMA.join(phrases) + str(draw.choice(_ENDS))
    labels = {
        f"{task}_labels": None if draw.random() < _MISSING else REFERENCE[task][label] for task, label in chosen.items()
    }
    return {"text": text, **labels}
