import pytest


def pytest_collection_modifyitems(items):
    """Tests of the CUDA kernels' PTX need nvcc."""
    from nvcc_ptx import nvcc

    if nvcc() is None:
        for item in items:
            if item.path.parent.name == "ptx" and item.path.name.startswith("test_cuda"):
                item.add_marker(pytest.mark.skip(reason="no nvcc on the PATH or in /usr/local/cuda/bin"))
