"""The namespace of the operators, named here alone: a package for the Hub's `kernels` has another, and so stands beside
this one in a process (tools/release/hub_kernel.py). csrc gets it from CMake (DELTACONV_NAMESPACE)."""

from __future__ import annotations

import torch

NAMESPACE = "deltaconv"
operators = getattr(torch.ops, NAMESPACE)
