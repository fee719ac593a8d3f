"""Logs of all services: one line per event on stderr, as JSON where nobody watches, readable in a terminal."""

from __future__ import annotations

import json
import logging
import os
import sys
import time


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure() -> None:
    """Sends the root logger to stderr. OVERWORLD_LOG_LEVEL sets the level, INFO by default."""
    handler = logging.StreamHandler()
    if sys.stderr.isatty():
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s  %(message)s", "%H:%M:%S"))
    else:
        handler.setFormatter(_Json())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    level = os.environ.get("OVERWORLD_LOG_LEVEL", "INFO").upper()
    try:
        logging.getLogger().setLevel(level)
    except ValueError:
        logging.getLogger(__name__).warning("OVERWORLD_LOG_LEVEL=%s is not a level; INFO is used", level)
