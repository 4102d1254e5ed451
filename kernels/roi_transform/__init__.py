from kernels.roi_transform.api import grid_sample

__all__ = ["grid_sample"]
