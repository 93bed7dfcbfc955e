"""Is this a model we serve? As a program, before anything slow: `python -m tgi_server.launcher.served DIRECTORY`.

The launcher itself knows nothing of models; the shards ask the same of the configuration they find.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tgi_server.launcher import job
from tgi_server.models.spec import read_spec


def look(directory: Path) -> str:
    """Read the configuration in `directory`; raises ModelError when such a model is not served."""
    read_spec(directory)
    return str(directory)


if __name__ == "__main__":
    job.perform(lambda report: look(Path(sys.argv[1])))
