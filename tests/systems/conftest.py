from tiny_spnet import tiny as tiny
