from tiny_seqnet import tiny_seqnet as tiny_seqnet
from tiny_spnet import tiny as tiny
