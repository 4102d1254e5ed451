"""Tables of runs for `python -m ps_jax.sweep`: one file a published table, `get_table(dataset)` in it."""
