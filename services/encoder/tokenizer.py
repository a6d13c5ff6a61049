"""cn_clip's tokens of a text, in time that grows with the text's length alone.

cn_clip's own tokenizer tries every end of a word at every start in it, and reads a text to its end whatever the model
can see of it. Here the same rules are put into tables, which are made from cn_clip's tokenizer and its vocabulary, so
that each character is looked at a bounded number of times and nothing is read beyond what is asked for.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from services.encoder.checkpoints import cn_clip_folder

# Characters that are prepared together: most texts are one slice, and of a long one few are needed.
_SLICE = 256
# cn_clip's own data code makes these straight in every text, and the text lower-case, before it tokenizes: in training,
# evaluation and zero-shot classification (_preprocess_text of cn_clip/training/data.py and cn_clip/eval/data.py).
_CURLY_QUOTES = "“”"
# Such characters stand for themselves: not kept in the table, which would grow to all of Unicode.
_UNASSIGNED = ("Cn", "Co")
# Marks a beginning of pieces that is no piece itself.
_NO_PIECE = -1


class Tokenizer:
    """Token ids as cn_clip gives them, without those that mark a text's ends."""

    def __init__(self) -> None:
        original = _module().FullTokenizer()
        self.vocabulary: Mapping[str, int] = original.vocab
        self._unknown = self.vocabulary["[UNK]"]
        self._max_word_chars: int = original.wordpiece_tokenizer.max_input_chars_per_word
        self._spaced = _Spaced(original.basic_tokenizer)
        inner = {piece[2:]: number for piece, number in self.vocabulary.items() if piece[:2] == "##" and piece != "##"}
        self._first, self._rest = _beginnings(self.vocabulary), _beginnings(inner)

    def ids(self, text: str, most: int) -> list[int]:
        """The ids of the first `most` tokens; fewer if the text has no more."""
        found: list[int] = []
        for word in self._words(text.lower()):
            found += self._pieces(word)
            if len(found) >= most:
                return found[:most]
        return found

    def _words(self, text: str) -> Iterator[str]:
        """What stands between spaces once each character is what the vocabulary knows."""
        rest = ""
        for start in range(0, len(text), _SLICE):
            whole, _, rest = (rest + text[start : start + _SLICE].translate(self._spaced)).rpartition(" ")
            yield from whole.split()
        yield from rest.split()

    def _pieces(self, word: str) -> list[int]:
        """The longest piece that the word begins with, the longest that its rest begins with, and so on.

        A word that cannot be divided so is one unknown token.
        """
        if len(word) > self._max_word_chars:
            return [self._unknown]
        found: list[int] = []
        start, pieces = 0, self._first
        while start < len(word):
            best, best_end = _NO_PIECE, start
            for end in range(start + 1, len(word) + 1):
                number = pieces.get(word[start:end])
                if number is None:
                    break
                if number != _NO_PIECE:
                    best, best_end = number, end
            if best == _NO_PIECE:
                return [self._unknown]
            found.append(best)
            start, pieces = best_end, self._rest
        return found


class _Spaced(dict[int, str]):
    """For str.translate: what a lower-case character becomes before words are parted at spaces.

    Control characters and accents vanish, accented letters lose theirs, and ideographs and punctuation get spaces
    around them. cn_clip does so character by character: the order of combining marks, which alone depends on
    neighbours, matters for no piece of the vocabulary (a test holds that).
    """

    def __init__(self, basic_tokenizer: Any) -> None:
        super().__init__()
        self._basic = basic_tokenizer
        self.update(dict.fromkeys(map(ord, _CURLY_QUOTES), self[ord('"')]))

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if unicodedata.category(character) in _UNASSIGNED and not self._basic._is_chinese_char(code):
            return character
        # Between two letters, spaces around it can be seen.
        made = self[code] = " ".join(self._basic.tokenize(f"a{character}a"))[1:-1]
        return made


def _beginnings(pieces: Mapping[str, int]) -> dict[str, int]:
    """All beginnings of the pieces, with the number of those that are pieces."""
    return {piece[:end]: _NO_PIECE for piece in pieces for end in range(1, len(piece))} | dict(pieces)


def _module() -> ModuleType:
    """From its one file: importing cn_clip takes torch, which an encoder on OpenVINO can do without."""
    path = cn_clip_folder() / "bert_tokenizer.py"
    spec = importlib.util.spec_from_file_location("wentu_cn_clip_tokenizer", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
