"""Training: the loop, its state and its checkpoints."""

from ps_jax.training.checkpoints import load_variables as load_variables
from ps_jax.training.compilation import enable_compilation_cache as enable_compilation_cache
from ps_jax.training.loop import train_and_evaluate as train_and_evaluate
from ps_jax.training.phases import compute_dtype as compute_dtype
from ps_jax.training.processes import joined as joined
from ps_jax.training.state import TrainState as TrainState
from ps_jax.training.trained import load_system as load_system
from ps_jax.training.workdir import provenance as provenance
