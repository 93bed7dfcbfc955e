"""What a model of no family keeps: `python -m tgi_server.launcher.examine DIRECTORY TRUST`, TRUST being 0 or 1.

A process of its own, as transformers has to look at the model, and with `trust_remote_code` code that came with it.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from tgi_server.launcher import job


class Examination:
    """Asks once for each directory.

    Args:
        trust: whether code in the directory may run, in that process.
        report: told that it takes a while; may raise to cancel.

    Attributes:
        text: the last answer; None as long as nothing had to be asked.
    """

    def __init__(self, trust: bool, report: job.Report) -> None:
        self.text: str | None = None
        self._answers: dict[Path, str] = {}
        self._trust = trust
        self._report = report

    def __call__(self, directory: Path) -> str:
        """See `models.fallback.spec.Ask`."""
        if directory not in self._answers:
            arguments = str(directory.absolute()), str(int(self._trust))
            offline = {"HF_HUB_OFFLINE": "1"}  # all there is to know lies in the directory
            self._answers[directory] = job.run(__name__, *arguments, report=self._report, extra=offline)
        self.text = self._answers[directory]
        return self.text


def main(directory: Path, trust: bool, report: job.Report) -> str:
    """The description as text."""
    report("Looking at the model's module", 0.0)
    from tgi_server.models.fallback.probe import describe

    return describe(directory, trust).text


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of libraries about each other
    job.perform(lambda report: main(Path(sys.argv[1]), sys.argv[2] == "1", report))
