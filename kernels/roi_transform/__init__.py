from kernels.roi_transform.api import grid_sample, roi_transform

__all__ = ["grid_sample", "roi_transform"]
