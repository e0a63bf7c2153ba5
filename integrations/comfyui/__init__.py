"""ΔConvBlocks in ComfyUI: `ComfyUI/custom_nodes/deltaconv` is a copy of this folder, or a link to it."""

from .nodes import AttachFusion, DetachFusion, LoadFusion

NODE_CLASS_MAPPINGS = {
    "DeltaConvLoadFusion": LoadFusion,
    "DeltaConvAttachFusion": AttachFusion,
    "DeltaConvDetachFusion": DetachFusion,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "DeltaConvLoadFusion": "Load ΔConvBlocks",
    "DeltaConvAttachFusion": "Attach ΔConvBlocks",
    "DeltaConvDetachFusion": "Detach ΔConvBlocks",
}
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
