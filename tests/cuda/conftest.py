import pytest
from host_build import HostPyramid, module


@pytest.fixture(scope="session")
def host():
    """The host build of the CUDA kernels, compiled if it is not."""
    return module()


@pytest.fixture
def cores(host):
    """The operator on CUDA cores, whatever road the plan would choose."""
    return HostPyramid(road="cuda_cores")
