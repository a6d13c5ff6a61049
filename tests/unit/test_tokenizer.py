"""The tokens are cn_clip's, whatever the text, and cost a bounded number of steps."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.encoder import texts as texts_module
from services.encoder.texts import CONTEXT_LENGTH, tokenize_text
from services.encoder.tokenizer import _Spaced
from tests.support.cn_clip_texts import cn_clip_ids, data_code

TOKENIZER = texts_module._TOKENIZER
QUADRATIC = ("z9" * 99 + " ") * 50  # took 0.9 s
HOSTILE = [
    QUADRATIC,
    "“一只猫” ‘狗’",
    "ΑΣ ΑΣ\x01Α ΑΣ\u00adΑ ΑΣ\u0301Α İstanbul",  # what Σ becomes in lower case depends on what follows
    "e\u0301\u0316e\u0316\u0301 가각 \u302e\U0001d165",
    "a\u2028b\u0085c\x1cd\u3000e\ufffdf\x00g",
    "a" * 200 + " " + "a" * 201 + " " + "\u0301" * 300 + "b",
    "facebooktwitterpinterestgoogle" * 7,
    "##a [UNK] [CLS] 100% ﬁ Ⅷ ﷺ 豈",
    "图" * 10_000,
    "\x01" * 9_999 + "猫",
    "x" * 9_999,
]
words = st.one_of(
    st.text(),
    st.text(st.characters(categories=["Mn", "Mc", "Me", "Cc", "Cf", "Zl", "Zs", "Lm"]), max_size=300),
    st.text(st.sampled_from([*"aZ9éÉΣσςİ“”#[ 图\u0301\u00ad\u200d"]), max_size=400),
    st.lists(st.sampled_from(sorted(TOKENIZER.vocabulary)), max_size=60).map("".join),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(words, max_size=4).map(" ".join))
def test_tokens_of_any_text(text: str) -> None:
    check(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_tokens_of_hostile_texts(text: str) -> None:
    check(text)


def check(text: str) -> None:
    wanted = cn_clip_ids(text)
    assert [TOKENIZER.vocabulary["[CLS]"], *TOKENIZER.ids(text, CONTEXT_LENGTH - 2)] == wanted[:-1]
    if len(wanted) > 2:
        tokens = tokenize_text(text, max_chars=10**6, field="text")
        assert list(tokens.ids) == wanted
        assert tokens.truncated == (tokens.count == CONTEXT_LENGTH + 1)


def test_every_character_of_unicode() -> None:
    """Between letters and on its own, many to a text: without the cut."""
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    known = [each for each in characters if unicodedata.category(each) not in ("Cs", "Co", "Cn")]
    original = _original()
    for start in range(0, len(known), 5000):
        text = " ".join(f"a{each}b" for each in known[start : start + 5000])
        wanted = original.convert_tokens_to_ids(original.tokenize(data_code("eval")(text)))
        assert TOKENIZER.ids(text, len(text)) == wanted


def test_what_the_tables_rest_on() -> None:
    """The order of combining marks, which depends on their neighbours, is of no account, and lower case is final."""
    in_pieces = set("".join(TOKENIZER.vocabulary))
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.combining(character) and unicodedata.category(character) != "Mn":
            assert character not in in_pieces
            assert not unicodedata.category(character).startswith("P")
        assert character.lower().lower() == character.lower()


def test_both_parts_of_cn_clip_clean_texts_alike() -> None:
    for text in ("“A” B", "ΑΣ", "‘’「」『』"):
        assert data_code("training")(text) == data_code("eval")(text)


def test_a_text_costs_a_bounded_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a look-up for each beginning of the longest piece, at each character that the model may see."""
    longest = max(map(len, TOKENIZER.vocabulary))
    for text in [*HOSTILE, "facebooktwitterpinterestgoogl " * 300]:
        looked_up = Counting(TOKENIZER._first), Counting(TOKENIZER._rest)
        monkeypatch.setattr(TOKENIZER, "_first", looked_up[0])
        monkeypatch.setattr(TOKENIZER, "_rest", looked_up[1])
        TOKENIZER.ids(text, CONTEXT_LENGTH - 1)
        monkeypatch.undo()
        steps = sum(each.count for each in looked_up)
        assert steps <= (CONTEXT_LENGTH - 1) * 200 * longest / 5, f"{steps} look-ups"


def test_a_text_is_read_no_further_than_the_model_sees() -> None:
    def lines() -> Iterator[str]:
        read = 0
        while True:
            read += 1
            assert read < 60, "it reads on"
            yield "图"

    found = TOKENIZER._words
    try:
        TOKENIZER._words = lambda text: lines()  # type: ignore[method-assign]
        assert len(TOKENIZER.ids("", CONTEXT_LENGTH - 1)) == CONTEXT_LENGTH - 1
    finally:
        TOKENIZER._words = found  # type: ignore[method-assign]


def test_characters_without_a_meaning_take_no_memory() -> None:
    table = TOKENIZER._spaced
    assert isinstance(table, _Spaced)
    before = len(table)
    private = "".join(map(chr, range(0xF0000, 0xF0000 + 5000)))
    TOKENIZER.ids(private, CONTEXT_LENGTH - 1)
    assert len(table) == before


class Counting(dict[str, int]):
    """Counts what is looked up."""

    count = 0

    def get(self, *key: Any) -> Any:
        self.count += 1
        return super().get(*key)


def _original() -> Any:
    from cn_clip.clip import _tokenizer

    return _tokenizer
