from kernels.roi_align.api import assign_levels, multiscale_roi_align, roi_align

__all__ = ["assign_levels", "multiscale_roi_align", "roi_align"]
