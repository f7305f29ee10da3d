"""The command line: :data:`main` with all verbs. Heavy imports wait for the verb."""

from fusiondistill_runner.command import main
from fusiondistill_runner.verbs import (
    evaluate,
    experiment,
    export,
    fuse,
    init,
    looking,
    machines,
    predict,
    store,
    try_store,
)

__all__ = [
    "evaluate", "experiment", "export", "fuse", "init", "looking", "machines", "main", "predict", "store", "try_store",
]  # fmt: skip
