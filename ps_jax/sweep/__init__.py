"""Sweeps: a published table of configurations run one after the other, its numbers beside ours.

python -m ps_jax.sweep configs/tables/spnet_qc_oc_none.py --weights FILE
"""

from ps_jax.sweep.tables import Ladder as Ladder
from ps_jax.sweep.tables import Row as Row
from ps_jax.sweep.tables import Table as Table
from ps_jax.sweep.tables import load_table as load_table
