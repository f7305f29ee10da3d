"""Write the golden results of what is new or got a new version; refuse where a result changed and its version did not.

Usage: python tests/golden/write.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Write the file; 1 where something was refused."""
    import torch

    from golden.cases import cases
    from golden.comparing import FILE, read, text, written

    torch.set_num_threads(1)
    stored = read()
    content, problems = written(stored, {key: make() for key, make in cases().items()})
    FILE.write_text(text(content))
    for key in sorted(content.keys() | stored.keys()):
        if content.get(key) != stored.get(key):
            print("written:" if key in content else "gone:", key)
    for line in problems:
        print("refused:", line, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FUSIONDISTILL_CACHE"] = cache
        sys.exit(main())
