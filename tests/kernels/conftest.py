import pytest

from deltaconv_kernels.backends import backends, use_backend
from deltaconv_kernels.testing import poisoned_outputs

CPU_BACKENDS = ("reference", "cpu")


@pytest.fixture(params=CPU_BACKENDS)
def backend(request):
    """Each backend that computes on a CPU, in use, with uninitialised memory full of NaN."""
    status = backends()[request.param]
    if not status.available:
        pytest.fail(f"backend {request.param} must run wherever the tests do: {status.reason}")
    with use_backend(request.param), poisoned_outputs():
        yield request.param
