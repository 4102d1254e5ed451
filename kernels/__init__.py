"""Operations with a contract of their own: one folder each, `api.py` states the contract.

Every operation takes `implementation`: None picks the form that was quickest where it was measured on the platform
at hand (`_choices.py`), "xla" the quickest one in plain JAX, which runs everywhere, "pallas" the hand-written kernel
for NVIDIA GPUs. Naming one uses it or raises; it is never replaced in silence. All forms have the same numbers.
"""
