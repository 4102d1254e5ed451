from tiny_alignps import tiny_alignps as tiny_alignps
from tiny_leaps import tiny_leaps as tiny_leaps
from tiny_rdlr import tiny_rdlr as tiny_rdlr
from tiny_roi_alignps import tiny_roi_alignps as tiny_roi_alignps
from tiny_seqnet import tiny_seqnet as tiny_seqnet
from tiny_spnet import tiny as tiny
