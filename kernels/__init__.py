"""Operations with a contract of their own: one folder each, `api.py` states the contract.

Every operation takes `implementation`: None picks what works on the platform at hand, "xla" names the plain
JAX form that runs everywhere. Naming one uses it or raises; it is never replaced in silence.
"""
