"""Small problems are shared among the threads too: one image, few channels, images of 8 x 8."""

import os
import subprocess
import sys

import pytest

# Two threads that sleep while they wait, so that a thread's processor time is what it computed.
SHARES = """
import os, time
import torch
from deltaconv_kernels import backends
from deltaconv_kernels.testing import Shape, make_case

def ticks():
    spent = {}
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        spent[task] = int(fields[11]) + int(fields[12])
    return spent

torch.set_num_threads(2)
assert backends()["cpu"].available  # loads the library
ops = torch.ops.deltaconv
for sizes in ((1, 64, 64, 32, 9), (1, 128, 128, 2, 9), (1, 8, 8, 640, 9), (16, 8, 8, 32, 9), (1, 2, 4096, 32, 9)):
    case = make_case(Shape(*sizes))
    arguments = (case.x, case.weight, case.bias, list(case.factors), 0, 1.0)
    passes = {
        "forward": lambda: ops.pyramid_cpu(*arguments, None),
        "backward": lambda: ops.pyramid_backward_cpu(case.grad, *arguments, [True, True, True]),
    }
    for name, function in passes.items():
        before, end = ticks(), time.monotonic() + 0.4
        while time.monotonic() < end:
            function()
        busy = sorted(count - before.get(task, 0) for task, count in ticks().items())
        print(name, *sizes, busy[-2] / busy[-1])
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="reads threads' times in /proc")
@pytest.mark.skipif(
    hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < 2, reason="this process has one core"
)
def test_every_thread_gets_work():
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": "2"}
    result = subprocess.run([sys.executable, "-c", SHARES], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    shares = [float(line.split()[-1]) for line in result.stdout.splitlines()]
    assert len(shares) == 10
    assert min(shares) > 0.3, f"processor time of the less busy thread over the other's, by problem:\n{result.stdout}"
