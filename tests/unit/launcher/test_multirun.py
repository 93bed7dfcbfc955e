"""What --multirun is refused for."""

from __future__ import annotations

import pytest

from tgi_server.config import cli, load
from tgi_server.errors import UsageError
from tgi_server.launcher import main


@pytest.mark.parametrize("job", ["serve", "ray"])
def test_what_never_ends_is_refused_by_its_name(job: str) -> None:
    arguments = cli.parse(["-m", f"job={job}", "port=1,2"], {})
    tasks = [main._task(each) for each in load.combinations(arguments)]
    with pytest.raises(UsageError, match=f"job={job} runs until it is told to stop"):
        main._check_jobs(tasks, arguments)
