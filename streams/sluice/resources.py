"""Where the files beside the code are: schemas, SQL, examples."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from sluice.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent


@cache
def resource_dir(name: Literal["schemas", "sql", "infra"]) -> Path:
    """Folder of the installed copy, or of the source tree when run from one."""
    for candidate in (_PACKAGE / "_data" / name, _PACKAGE.parents[1] / name):
        if candidate.is_dir():
            return candidate
    raise ConfigError(f"the folder {name}/ is missing beside the package; reinstall sluice")
