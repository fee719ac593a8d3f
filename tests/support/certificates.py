"""Certificates, made by openssl, in folders of cert-manager's form."""

from __future__ import annotations

import datetime
import os
import subprocess
from pathlib import Path

_CONFIG = """\
[ca]
default_ca = ours
[ours]
database = {folder}/index
rand_serial = yes
unique_subject = no
default_md = sha256
policy = anything
[anything]
commonName = supplied
"""


class Authority:
    """A certificate authority in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        (folder / "index").touch()
        (folder / "openssl.cnf").write_text(_CONFIG.format(folder=folder))
        _openssl(
            "req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Test authority", cwd=folder
        )

    @property
    def certificate(self) -> bytes:
        """As ca.crt."""
        return (self._folder / "ca.crt").read_bytes()

    def issue(self, folder: Path, *names: str, days: tuple[float, float] = (-1, 1), mutual: bool = False) -> Path:
        """Puts a certificate for host names and addresses into `folder`, valid between two days from now.

        With `mutual` the ca.crt is put there, too. Files that are there are replaced one after the other, as a careless
        person does.
        """
        folder.mkdir(parents=True, exist_ok=True)
        alternatives = ",".join(f"IP:{name}" if name[0].isdigit() else f"DNS:{name}" for name in names)
        (self._folder / "extensions").write_text(f"subjectAltName={alternatives}\nbasicConstraints=CA:false\n")
        request = ("req", "-new", *_KEY, "-keyout", "new.key", "-out", "new.csr", "-subj", f"/CN={names[0]}")
        _openssl(*request, cwd=self._folder)
        first, last = (_time(day) for day in days)
        _openssl(
            "ca", "-batch", "-notext", "-config", "openssl.cnf", "-in", "new.csr", "-out", "new.crt", "-outdir", ".",
            "-cert", "ca.crt", "-keyfile", "ca.key", "-extfile", "extensions", "-startdate", first, "-enddate", last,
            cwd=self._folder,
        )  # fmt: skip
        if mutual:
            (folder / "ca.crt").write_bytes(self.certificate)
        for source, target in (("new.key", "tls.key"), ("new.crt", "tls.crt")):
            os.replace(self._folder / source, folder / target)
        return folder

    def trust(self, folder: Path) -> Path:
        """Puts only the ca.crt into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ca.crt").write_bytes(self.certificate)
        return folder


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _time(days: float) -> str:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    return moment.strftime("%Y%m%d%H%M%SZ")
