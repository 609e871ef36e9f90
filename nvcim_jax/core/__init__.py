"""The paper's equations: functions of one example, in JAX alone."""
