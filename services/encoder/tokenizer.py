"""cn_clip's tokens of a text, in time that is linear in the text's length.

cn_clip's own tokenizer takes quadratic time for a long word, and it reads the whole text although the model sees only
its beginning. Here tables, made from cn_clip's tokenizer and vocabulary, hold the same rules. Each character is
visited a bounded number of times, and reading stops after the tokens that are asked for.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from services.encoder.checkpoints import cn_clip_folder

# Characters per slice. Most texts are one slice, and only the first slices of a long text are needed.
_SLICE = 256
# cn_clip's data code replaces these by straight quotes and lower-cases the text before it tokenizes, in training,
# evaluation and zero-shot classification (_preprocess_text of cn_clip/training/data.py and cn_clip/eval/data.py).
_CURLY_QUOTES = "“”"
# These characters map to themselves. They are not stored in the table, which would otherwise grow to all of Unicode.
_UNASSIGNED = ("Cn", "Co")
# Marks a prefix of pieces that is not itself a piece.
_NO_PIECE = -1


class Tokenizer:
    """Gives cn_clip's token ids, without the special tokens at the ends of a text."""

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
        """The words between spaces, after each character was replaced as the vocabulary needs it."""
        rest = ""
        for start in range(0, len(text), _SLICE):
            whole, _, rest = (rest + text[start : start + _SLICE].translate(self._spaced)).rpartition(" ")
            yield from whole.split()
        yield from rest.split()

    def _pieces(self, word: str) -> list[int]:
        """Wordpiece: the longest piece at the word's beginning, then the longest one at the beginning of the rest, etc.

        A word that cannot be divided in this way becomes one unknown token.
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
    """A table for str.translate. It maps a lower-case character to its replacement before the text is split at spaces.

    Control characters and accents are removed, and ideographs and punctuation get spaces around them. cn_clip does the
    same per character. Only the order of combining marks depends on neighbours, and it matters for no piece of the
    vocabulary (a test checks that).
    """

    def __init__(self, basic_tokenizer: Any) -> None:
        super().__init__()
        self._basic = basic_tokenizer
        self.update(dict.fromkeys(map(ord, _CURLY_QUOTES), self[ord('"')]))

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if unicodedata.category(character) in _UNASSIGNED and not self._basic._is_chinese_char(code):
            return character
        # Placed between two letters, the character shows whether it gets spaces.
        made = self[code] = " ".join(self._basic.tokenize(f"a{character}a"))[1:-1]
        return made


def _beginnings(pieces: Mapping[str, int]) -> dict[str, int]:
    """All prefixes of the pieces. A prefix that is a piece has its token id."""
    return {piece[:end]: _NO_PIECE for piece in pieces for end in range(1, len(piece))} | dict(pieces)


def _module() -> ModuleType:
    """Load cn_clip's tokenizer from its file. Importing cn_clip would need torch, which OpenVINO does not."""
    path = cn_clip_folder() / "bert_tokenizer.py"
    spec = importlib.util.spec_from_file_location("wentu_cn_clip_tokenizer", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
