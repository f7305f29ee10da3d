"""Which code is at work: the package's version and a digest of its files, for manifests and for checks of a cluster.

Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from fusiondistill import NAME, __version__

__all__ = ["code_digest", "code_facts"]

PACKAGES = (NAME, f"{NAME}_runner")


@cache
def code_digest() -> str:
    """sha256 over the project's own Python files, 64 hex digits: two checkouts of one version can differ.

    It is computed once a process. The first call should come before any work is done, while the files are those that
    the process has imported.

    Raises:
        ModuleNotFoundError: one of the two packages is not installed.
    """
    digest = hashlib.sha256()
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"the package {name} is not installed")
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{name}/{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def code_facts() -> dict[str, str]:
    """``version`` and ``digest`` of the code, as manifests hold them."""
    return {"version": __version__, "digest": code_digest()}
