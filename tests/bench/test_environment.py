import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segdeploy.bench.environment import OtherLoad, read_environment

BUSY = "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"


def test_the_environment_names_the_machine():
    """What every system can tell is there, and numpy's version is the installed one."""
    import numpy as np

    found = read_environment()
    assert found.cpu
    assert 1 <= found.cpus <= os.cpu_count()
    assert found.packages["numpy"] == np.__version__
    assert found.load.other_cpus is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux's /proc")
def test_work_of_others_is_told_from_ones_own():
    """The same busy process counts as a load where it is a stranger, and does not where it is one of the benchmark's."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        stranger, own = OtherLoad([]), OtherLoad([process.pid])
        time.sleep(0.8)
        as_stranger, as_own = stranger.cpus(), own.cpus()
    finally:
        process.kill()
        process.wait()
    assert as_stranger > 0
    assert as_stranger > as_own + 0.1
    assert own.cpus() is None
