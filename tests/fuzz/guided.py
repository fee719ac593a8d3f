"""Coverage-guided fuzzing of what reads foreign bytes, with Atheris (`make fuzz`).

python -m tests.fuzz.guided [--seconds 60] [PARSER ...]    each of PARSERS, one after another
python -m tests.fuzz.guided --input FILE PARSER            an input that failed, again

What was found to be worth keeping lies in runs/fuzz/<parser>, and is where the next run goes on; so does an input that
fails, as `failed-<hash>`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

INSTRUMENTED = ["overworld", "overworld_vlm", "overworld_policy"]
_MEMORY_MB = 3000
_SLOW_SECONDS = 20
_DONE = re.compile(r"^#(\d+)\s+DONE\s+cov: (\d+).*$", re.MULTILINE)


def main() -> None:
    """Runs the parsers in processes of their own, since libFuzzer ends the one it runs in."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("parsers", nargs="*")
    arguments.add_argument("--seconds", type=int, default=60, help="for each parser")
    arguments.add_argument("--seed", type=int, default=1, help="of the mutations")
    arguments.add_argument("--input", type=Path, help="a file to give to the parser instead")
    arguments.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.corpus:
        _fuzz(chosen.parsers[0], chosen.corpus, chosen.seconds, chosen.seed)
        return
    from tests.fuzz.parsers import PARSERS

    if chosen.input:
        parser = PARSERS[chosen.parsers[0]]()
        try:
            parser.parse(chosen.input.read_bytes())
        except parser.refusals as error:
            print(f"refused: {error}")
        return
    failed = [name for name in chosen.parsers or PARSERS if not _run(name, chosen.seconds, chosen.seed)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _run(name: str, seconds: int, seed: int) -> bool:
    corpus = Path("runs/fuzz") / name
    corpus.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.guided", name, "--corpus", str(corpus)]
    command += ["--seconds", str(seconds), "--seed", str(seed)]
    child = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    done = _DONE.findall(child.stdout)
    if child.returncode == 0 and done:
        print(f"{name:17} {int(done[-1][0]):>11,} executions, {done[-1][1]} edges, seed {seed}", flush=True)
        return True
    print(f"{name:17} FAILED with status {child.returncode}:\n{child.stdout[-6000:]}", flush=True)
    return False


def _fuzz(name: str, corpus: Path, seconds: int, seed: int) -> None:
    import atheris

    if os.path.isdir("/dev/shm"):  # some parsers read files
        tempfile.tempdir = "/dev/shm"
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.parsers import PARSERS

        parser = PARSERS[name]()

    def run(data: bytes) -> None:
        try:
            parser.parse(data)
        except parser.refusals:
            return

    samples = Path(tempfile.mkdtemp())
    for number, sample in enumerate(parser.samples):
        parser.parse(sample)
        (samples / str(number)).write_bytes(sample)
    settings = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-rss_limit_mb={_MEMORY_MB}",
        f"-timeout={_SLOW_SECONDS}",
        "-max_len=20000",
        f"-artifact_prefix={corpus}/failed-",
    ]
    atheris.Setup([sys.argv[0], *settings, str(corpus), str(samples)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
