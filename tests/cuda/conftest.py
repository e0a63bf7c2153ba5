import pytest
from host_build import HostPyramid, build, module


@pytest.fixture(scope="session")
def host():
    """The host build of the CUDA kernels, compiled if it is not."""
    return module()


@pytest.fixture
def cores(host):
    """The operator on CUDA cores, whatever path the plan would choose."""
    return HostPyramid(path="cuda_cores")


@pytest.fixture
def tensor_cores(host):
    """The operator on tensor cores, whatever path the plan would choose."""
    return HostPyramid(path="tensor_cores")


@pytest.fixture(scope="session", params=["address", "thread"])
def sanitized(request):
    """The folder of the sanitizers' programs, built with each of the two."""
    return build(f"cuda-host-{request.param}", f"-DDELTACONV_SANITIZER={request.param}")


@pytest.fixture(scope="session")
def thread_sanitized():
    """The same, with ThreadSanitizer alone."""
    return build("cuda-host-thread", "-DDELTACONV_SANITIZER=thread")
