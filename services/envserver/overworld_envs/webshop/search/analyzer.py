"""Text to search terms, as Lucene's EnglishAnalyzer (8.x) makes them.

Words by Unicode's rules (UAX #29, with emoji), possessive "'s" off, lower case, 33 stop words out, Porter's stemmer.
"""

from __future__ import annotations

import functools

import regex
from nltk.stem.porter import PorterStemmer

_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())

_MAX_TOKEN = 255
"""Lucene cuts longer words into pieces of this many UTF-16 units."""


def terms(text: str) -> list[str]:
    """The terms of `text`, in its order, with repetitions."""
    found = []
    for word in words(text):
        term = _term(word) if len(word) <= _CACHED_CHARS else _term.__wrapped__(word)
        if term:
            found.append(term)
    return found


def words(text: str) -> list[str]:
    """Lucene's StandardTokenizer: words, numbers, single ideographs, emoji."""
    pieces: list[str] = _WORD.findall(text)
    if any(len(piece) > _MAX_TOKEN for piece in pieces):
        pieces = [piece[at : at + _MAX_TOKEN] for piece in pieces for at in range(0, len(piece), _MAX_TOKEN)]
    return pieces


_CACHED_CHARS = 32


@functools.lru_cache(maxsize=65_536)
def _term(word: str) -> str:
    """The term of a word; empty for a stop word."""
    if len(word) >= 2 and word[-1] in "sS" and word[-2] in "'\N{RIGHT SINGLE QUOTATION MARK}\N{FULLWIDTH APOSTROPHE}":
        word = word[:-2]
    word = "".join(map(_lower, word)) if not word.isascii() else word.lower()
    if word in STOP_WORDS:
        return ""
    stem: str = _STEMMER.stem(word, to_lowercase=False)
    return stem


def _lower(character: str) -> str:
    """Java's Character.toLowerCase: always one character for one."""
    lowered = character.lower()
    return lowered if len(lowered) == 1 else lowered[0]


# The author's own revision, which Lucene uses too; NLTK's extensions differ.
_STEMMER = PorterStemmer(mode=PorterStemmer.MARTIN_EXTENSIONS)


# Lucene 8 has the tables of Unicode 9 and Emoji 12: more symbols were pictographs, and some marks were not letters yet.
_OLDER_PICTOGRAPHS = (
    r"\u2388\u2600-\u2605\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712\u2763-\u2767"
    r"\U0001F000-\U0001F0FF\U0001F10D-\U0001F10F\U0001F12F\U0001F16C-\U0001F171\U0001F1AD-\U0001F1E5"
    r"\U0001F249-\U0001F53D\U0001F546-\U0001F64F\U0001F680-\U0001F6FF\U0001F7D5-\U0001F7FF\U0001F8B0-\U0001FFFD"
)
_NEWER_LETTERS = (
    r"\u00B8\u02C2-\u02C5\u02D2-\u02D7\u02DE\u02DF\u02E5-\u02EB\u02ED\u02EF-\u02FF\u055A-\u055C\u055E\u058A"
)


def _word_pattern() -> regex.Pattern[str]:
    """UAX #29's rules WB4 to WB13 as one expression. Invisible characters after a letter are part of it."""
    tail = r"[\p{WB=Format}\p{WB=Extend}\p{WB=ZWJ}]*+"

    def kind(characters: str) -> str:
        return f"(?:{characters}{tail})"

    letter = kind(rf"[[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}]--[\p{{Extended_Pictographic}}{_NEWER_LETTERS}]]")
    hebrew = kind(r"\p{WB=Hebrew_Letter}")
    numeric = kind(r"[\p{WB=Numeric}[\p{Block=Halfwidth_and_Fullwidth_Forms}&&\p{Nd}]]")
    katakana = kind(r"\p{WB=Katakana}")
    joiner = kind(r"\p{WB=ExtendNumLet}")
    in_word = kind(r"[\p{WB=MidLetter}\p{WB=MidNumLet}\p{WB=Single_Quote}]")
    in_number = kind(r"[\p{WB=MidNum}\p{WB=MidNumLet}\p{WB=Single_Quote}]")
    quote, double = kind(r"\p{WB=Single_Quote}"), kind(r"\p{WB=Double_Quote}")

    run = (
        f"(?:{katakana}(?:{joiner}*{katakana})*"
        f"|(?:{hebrew}(?:{double}{hebrew}|{quote}(?!{letter}))"
        f"|{numeric}(?:(?:{joiner}*|{in_number}){numeric})*"
        f"|{letter}(?:(?:{joiner}*|{in_word}){letter})*)+)"
    )
    word = f"{joiner}*{run}(?:{joiner}+{run})*{joiner}*"
    south_east_asian = f"(?:\\p{{LB=SA}}{tail})+"
    ideograph = f"[\\p{{Script=Han}}\\p{{Script=Hiragana}}]{tail}"
    # A digit with a keycap is a number; "#" and "*" are emoji with one and dropped without.
    pictograph = rf"[[\p{{Extended_Pictographic}}{_OLDER_PICTOGRAPHS}]--[0-9#*]]"
    symbol = rf"{pictograph}(?:\uFE0F(?:\u200D(?={pictograph}))?|{tail})"
    flag = rf"\p{{Regional_Indicator}}{{2}}{tail}"
    emoji = rf"(?:[#*]\uFE0F?\u20E3|{flag}|\u200D?{symbol}(?:(?<=\u200D){symbol})*)"
    return regex.compile(f"(?V1){word}|{south_east_asian}|{ideograph}|{emoji}")


_WORD = _word_pattern()
