"""`python fuzzing.py 100`: that many random problems on the native CPU backend, in the instruction set of
DELTACONV_CPU_ISA, which is read once per process. Prints the instruction set, or the smallest problem that fails."""

import sys

import torch
from hypothesis import HealthCheck, given, settings
from problems import problems

from deltaconv_kernels import backends, use_backend
from deltaconv_kernels.testing import Case, assert_matches_oracle, poisoned_outputs


def describe(case: Case) -> str:
    tensors = {name: (list(t.shape), t.stride()) for name, t in vars(case).items() if isinstance(t, torch.Tensor)}
    return f"{case.x.dtype}, {case.factors}, {case.gate}, {case.gate_scale}, shapes and strides {tensors}"


def fuzz(examples: int) -> None:
    @settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
    )
    @given(problems())
    def matches_the_oracle(case: Case) -> None:
        try:
            assert_matches_oracle(case)
        except AssertionError as error:
            raise AssertionError(f"{error}: {describe(case)}") from None

    with use_backend("cpu"), poisoned_outputs():
        matches_the_oracle()


if __name__ == "__main__":
    reason = backends()["cpu"].reason
    if reason is not None:
        raise SystemExit(reason)
    print(torch.ops.deltaconv.cpu_isa(), flush=True)
    fuzz(int(sys.argv[1]))
