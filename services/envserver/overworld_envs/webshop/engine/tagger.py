"""Which words of a title are nouns: upstream's reward compares them.

Upstream uses spaCy with one of two models that give different scores. The default here is TextBlob's PatternTagger,
whose lexicon comes with its package. Scores by different taggers are not comparable, so each score names its tagger.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from importlib.metadata import version
from typing import Any


class Tagger(ABC):
    """Finds nouns. Every score is reported with the tagger's `name`."""

    name: str

    def __init__(self) -> None:
        self.nouns = functools.lru_cache(maxsize=4096)(self._nouns)
        """The nouns and names of a title, lower-cased, in order, with repetitions."""

    @abstractmethod
    def _nouns(self, title: str) -> tuple[str, ...]: ...


class TextBlobTagger(Tagger):
    """TextBlob's PatternTagger."""

    def __init__(self) -> None:
        super().__init__()
        from textblob.en.taggers import PatternTagger

        self._tagger = PatternTagger()
        self.name = f"textblob {version('textblob')} pattern"

    def _nouns(self, title: str) -> tuple[str, ...]:
        return tuple(word.lower() for word, tag in self._tagger.tag(title) if tag.startswith("NN"))


class SpacyTagger(Tagger):
    """A spaCy model that the operator installed. Raises ImportError, OSError."""

    def __init__(self, model: str) -> None:
        super().__init__()
        import spacy

        self._model: Any = spacy.load(model, exclude=["parser", "ner", "lemmatizer"])
        self.name = f"spacy {version('spacy')} {model} {self._model.meta.get('version', '')}".strip()

    def _nouns(self, title: str) -> tuple[str, ...]:
        return tuple(token.text.lower() for token in self._model(title) if token.pos_ in ("NOUN", "PROPN"))


def tagger(name: str) -> Tagger:
    """ "textblob" or "spacy:<model>". Raises what the import or the loading of a model raises."""
    kind, _, model = name.partition(":")
    return SpacyTagger(model) if kind == "spacy" else TextBlobTagger()
