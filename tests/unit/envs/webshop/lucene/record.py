"""Records what a real Lucene answers: answers.json.gz beside this file. Needs javac and Debian's liblucene8-java.

python tests/unit/envs/webshop/lucene/record.py
"""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash
from overworld_envs.webshop.catalogue.products import Product
from overworld_envs.webshop.opening import source
from overworld_envs.webshop.settings import ShopSettings

_HERE = Path(__file__).parent
ANSWERS = _HERE / "answers.json.gz"
SIZES = (1_000, 100_000)
_QUERIES = 500
_JARS = ("/usr/share/java/lucene-core-8.7.0.jar", "/usr/share/java/lucene-analyzers-common-8.7.0.jar")

_ODD_QUERIES = (
    "women's women's women's running shoes",
    "men’s dress shirt",
    "café mocha protein bars",
    "crème brûlée scented candles",
    "2.4 ghz mechanical keyboard",
    "1,000 grams",
    "6.76 x 4.2 x 1.5 inches",
    "wi-fi camera night-vision",
    "black/white crew-socks",
    "3.5 ounce (pack of 12)",
    "8k hdmi cord 10 feet 10 feet",
    "iphone 12/12 pro phone case",
    "elo® tablet™",
    "★★★★★ best gift ✓",
    "东京 タブレット 한국어",
    "the and of with",
    "zzzz qqqq",
    "runs running runner ran",
    "st. gallen laboratory u.s.a.",
    "isn't it children's reach",
    "!!! ??? ...",
    "easy easy easy clean rug",
)
_PIECES = (
    "a b c S é ü ß İ Σ 1 2 0 ½ ² . , ' ’ ＇ : ; - _ / & ® ™ © 😀 ❤ ❤️ 👍🏽 👩‍👧 🇩🇪 1️⃣ 東 京 ひ カ タ ー ｶ 한 ไ ท ק "
    "\" ́ · ․ ٫ а Я ５ à ∞ ✔ ★ № ° “ ” – # * € $ x y ing ed s women's 1,000 6.76 u.s.a. don't wi-fi running"
)


def products(count: int) -> Iterator[Product]:
    """The generated catalogue that was searched."""
    return source(ShopSettings(products=count, seed=0)).products()


def digest(documents: Sequence[str]) -> str:
    """Tells whether the documents are those that were recorded."""
    return xxhash.xxh3_64_hexdigest("\n".join(documents).encode())


def queries(shop: Sequence[Product]) -> list[str]:
    """Odd ones, instructions, titles, and words at random from the shop, some of them repeated."""
    rng = random.Random(8)
    found = list(_ODD_QUERIES)
    while len(found) < _QUERIES:
        product = rng.choice(shop)
        texts = [*(instruction.text for instruction in product.human), product.title, product.bullets[0]]
        if rng.random() < 0.4:
            found.append(" ".join(rng.choice(texts).split()))
            continue
        words = product.document.split()
        chosen = [rng.choice(words) for _ in range(rng.randint(1, 8))]
        found.append(" ".join(chosen + chosen[: rng.randint(0, 2)]))
    return found


def odd_texts() -> list[str]:
    """Texts that are hard to cut into words."""
    rng = random.Random(9)
    pieces = [*_PIECES.split(" "), " ", " ", " "]
    return ["".join(rng.choice(pieces) for _ in range(rng.randint(1, 14))).strip() for _ in range(2000)]


def main() -> None:
    """Records."""
    with tempfile.TemporaryDirectory() as folder:
        classes = Path(folder) / "classes"
        path = ":".join((*_JARS, str(classes)))
        subprocess.run(["javac", "-encoding", "UTF-8", "-cp", path, "-d", classes, _HERE / "Lucene.java"], check=True)
        java = ["java", "-cp", path, "Lucene"]
        texts = odd_texts()
        recorded: dict[str, Any] = {
            "made by": "Lucene 8.7.0 (Debian liblucene8-java), EnglishAnalyzer, BM25 k1 0.9 b 0.4, ties by id",
            "terms": list(zip(texts, _answers([*java, "analyze"], texts), strict=True)),
            "searches": {},
        }
        asked = queries(list(products(SIZES[0])))
        for size in SIZES:
            shop = list(products(size))
            documents = [" ".join(product.document.split()) for product in shop]
            lines = (f"{one.asin}\t{text}" for one, text in zip(shop, documents, strict=True))
            file = Path(folder) / f"{size}.tsv"
            file.write_text("\n".join(lines), "utf-8")
            hits = _answers([*java, "search", str(file), f"{folder}/index{size}"], asked)
            answers = [[hit.rpartition(" ")[::2] for hit in line] for line in hits]
            recorded["searches"][str(size)] = {"documents": digest(documents), "answers": answers}
        recorded["queries"] = asked
    with gzip.GzipFile(ANSWERS, "wb", mtime=0) as out:
        out.write(json.dumps(recorded, ensure_ascii=False).encode())


def _answers(command: list[str], lines: list[str]) -> list[list[str]]:
    """A line of the program for each of `lines`, split at its tabs."""
    done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, encoding="utf-8", check=True)
    answers = [line.split("\t") if line else [] for line in done.stdout.split("\n")[:-1]]
    if len(answers) != len(lines):
        raise RuntimeError(f"{len(answers)} answers to {len(lines)} lines: {done.stderr}")
    return answers


if __name__ == "__main__":
    main()
