"""Search: BM25 with the scores of Lucene 8 and ties by document id, over arrays in mapped files.

As Pyserini's LuceneSearcher with its defaults: k1 0.9, b 0.4, and a query's score is the sum over its words. Arithmetic
is in single precision wherever Lucene's is, so the order is Lucene's, too.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overworld_envs.webshop.search.analyzer import terms

K1, B = np.float32(0.9), np.float32(0.4)

_ONE = np.float32(1)


def build(documents: Iterable[str], ids: list[str]) -> Iterator[tuple[str, NDArray[Any] | bytes]]:
    """The index of `documents`, file by file. `ids` are the documents' ids, which break ties."""
    vocabulary: dict[str, int] = {}
    term_of, document_of, count_of, lengths = array("i"), array("i"), array("i"), array("i")
    for document, text in enumerate(documents):
        found = terms(text)
        lengths.append(len(found))
        for term, count in Counter(found).items():
            term_of.append(vocabulary.setdefault(term, len(vocabulary)))
            document_of.append(document)
            count_of.append(count)

    encoded = [term.encode("utf-8", "surrogatepass") for term in vocabulary]
    order = sorted(range(len(encoded)), key=encoded.__getitem__)
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    in_terms = place[_int32(term_of)]
    sorting = np.argsort(in_terms, kind="stable")
    in_documents, counts = _int32(document_of)[sorting], _int32(count_of)[sorting]

    yield "terms.bin", b"".join(encoded[at] for at in order)
    yield "terms.npy", _starts([len(encoded[at]) for at in order])
    yield "postings.npy", _starts(np.bincount(in_terms, minlength=len(order)))
    yield "documents.npy", in_documents
    yield "saturations.npy", _saturations(counts, in_documents, _int32(lengths))
    ranks = np.empty(len(ids), np.int32)
    ranks[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids), dtype=np.int32)
    yield "ranks.npy", ranks
    yield "held.npy", np.array([np.count_nonzero(lengths)])


def _saturations(
    counts: NDArray[np.int32], documents: NDArray[np.int32], lengths: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Per posting 1 + tf / (k1 * (1 - b + b * length / mean length)); a term's score is weight - weight / that."""
    held = lengths[lengths > 0]  # Lucene counts only documents that have a term
    mean = np.float32(held.sum() / max(len(held), 1)) if len(held) else _ONE
    coded = _coded_length(lengths).astype(np.float32)
    inverse = _ONE / (K1 * ((_ONE - B) + B * coded / mean))
    saturations: NDArray[np.float32] = _ONE + counts.astype(np.float32) * inverse[documents]
    return saturations


def _coded_length(lengths: NDArray[np.int32]) -> NDArray[np.int64]:
    """The length as Lucene keeps it in one byte: exact below 40, above that 24 more than four leading bits."""
    above = np.maximum(lengths.astype(np.int64) - 24, 0)
    shift = np.maximum(np.frexp(above.astype(np.float64))[1] - 4, 0)
    return np.where(lengths < 24, lengths, 24 + ((above >> shift) << shift))


class SearchIndex:
    """A built index in `folder`. Only what a query touches is read, and processes share it."""

    def __init__(self, folder: Path) -> None:
        def load(name: str) -> NDArray[Any]:
            array: NDArray[Any] = np.load(folder / name, mmap_mode="r", allow_pickle=False)
            return array.view(np.ndarray)

        self._terms = np.memmap(folder / "terms.bin", np.uint8, "r") if (folder / "terms.bin").stat().st_size else b""
        self._term_starts = load("terms.npy")
        self._starts = load("postings.npy")
        self._documents = load("documents.npy")
        self._saturations: NDArray[np.float32] = load("saturations.npy")
        self._ranks = load("ranks.npy")
        self._held = int(load("held.npy")[0])
        """How many documents have a term; Lucene counts no others."""

    def search(self, text: str, limit: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The numbers of the best documents for `text`, at most `limit`, and their scores; best first."""
        postings = [
            (self._documents[start:end], self._scores(start, end, count))
            for start, end, count in self._found(Counter(terms(text)))
        ]
        if not postings:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        totals = np.zeros(len(self._ranks), np.float64)
        for documents, scores in postings:
            totals[documents] += scores
        rounded = totals.astype(np.float32)
        hits = np.flatnonzero(rounded)
        if len(hits) > limit:  # keep all that tie with the last one, so that ids break the tie
            least = np.partition(rounded[hits], len(hits) - limit)[len(hits) - limit]
            hits = hits[rounded[hits] >= least]
        best = hits[np.lexsort((self._ranks[hits], -rounded[hits]))][:limit]
        return best, rounded[best]

    def _scores(self, start: int, end: int, count: int) -> NDArray[np.float32]:
        frequency = end - start
        idf = np.float32(np.log(1 + (self._held - frequency + 0.5) / (frequency + 0.5)))
        weight = np.float32(count * idf)
        scores: NDArray[np.float32] = weight - weight / self._saturations[start:end]
        return scores

    def _found(self, counts: Mapping[str, int]) -> Iterator[tuple[int, int, int]]:
        """Start and end of each known term's postings, and how often the term is in the query."""
        for term, count in counts.items():
            at = self._place(term.encode("utf-8", "surrogatepass"))
            if at is not None:
                yield int(self._starts[at]), int(self._starts[at + 1]), count

    def _place(self, term: bytes) -> int | None:
        low, high = 0, len(self._term_starts) - 1
        while low < high:
            middle = (low + high) // 2
            found = bytes(self._terms[self._term_starts[middle] : self._term_starts[middle + 1]])
            if found == term:
                return middle
            low, high = (middle + 1, high) if found < term else (low, middle)
        return None


def _int32(values: array[int]) -> NDArray[np.int32]:
    return np.frombuffer(values, np.int32) if len(values) else np.zeros(0, np.int32)


def _starts(lengths: Any) -> NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))).astype(np.int64)
