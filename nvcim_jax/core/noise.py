"""Device variation on a set of virtual tokens (Eq. 4)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def noise_std(
    prompt: Float[Array, "tokens dim"], *, sigma: Float[Array, ""] | float, factors: Float[Array, "4"]
) -> Float[Array, "tokens dim"]:
    """Standard deviation of the noise on each value of a prompt, in the prompt's own unit (Eq. 4).

    `sigma * f * max|S|`, with f chosen by the magnitude relative to the largest: f1 above 0.75, f2 from 0.5,
    f3 from 0.25, f4 below. An all-zero prompt gets no noise. `max|S|` is the prompt's: vmap over prompts.
    """
    magnitude = jnp.abs(prompt)
    peak = jnp.max(magnitude)
    unit = magnitude / jnp.where(peak > 0, peak, 1)
    factor = jnp.select([unit > 0.75, unit >= 0.5, unit >= 0.25], list(factors[:3]), factors[3])
    return sigma * peak * factor


def inject(
    key: PRNGKeyArray,
    prompt: Float[Array, "tokens dim"],
    *,
    sigma: Float[Array, ""] | float,
    factors: Float[Array, "4"],
    through_peak: bool = False,
) -> Float[Array, "tokens dim"]:
    """The prompt as a noisy device returns it: `S' = S + N max|S|` (Eq. 4).

    The standard deviation is held constant under differentiation, so the gradient is that of the identity; with
    `through_peak` the gradient flows through max|S| as well, and training learns to keep the largest value small.
    """
    std = noise_std(prompt, sigma=sigma, factors=factors)
    if not through_peak:
        std = jax.lax.stop_gradient(std)
    return prompt + std * jax.random.normal(key, prompt.shape, prompt.dtype)
