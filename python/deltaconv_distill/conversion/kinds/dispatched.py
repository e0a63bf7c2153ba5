"""Joint attentions that attend by the backend which diffusers' set_attention_backend has given to their processor."""

from __future__ import annotations

from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor

from .joint_attention import JointStandIn


class Dispatched(JointStandIn):
    """Attends as `dispatch_attention_fn` does."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        backend = getattr(self.processor, "_attention_backend", None)
        mask = mask[:, None, None, :] if mask is not None and mask.dim() == 2 else mask
        return dispatch_attention_fn(query, key, value, attn_mask=mask, backend=backend).to(query.dtype)
