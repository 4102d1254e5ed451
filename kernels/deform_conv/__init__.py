from kernels.deform_conv.api import deform_conv

__all__ = ["deform_conv"]
