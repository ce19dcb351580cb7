"""The product whose derivative is our own, against JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmfuser_jax.ops.product import product
from tests.helpers import relative


@pytest.mark.parametrize(
    ("leading", "inputs", "outputs"), [((2, 5), (8,), (6,)), ((2, 5), (4, 3), (6,)), ((7,), (8,), (3, 2))]
)
def test_equals_tensordot(leading, inputs, outputs):
    rng = np.random.default_rng(0)
    x, kernel, weights = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in (leading + inputs, inputs + outputs, leading + outputs)
    )

    def results(function):
        return jax.value_and_grad(lambda x, kernel: (function(x, kernel) ** 2 * weights).sum(), (0, 1))(x, kernel)

    ours = results(lambda x, kernel: product(x, kernel, len(inputs)))
    plain = results(lambda x, kernel: jnp.tensordot(x, kernel, len(inputs)))
    assert max(relative(a, b) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True)) < 1e-6
