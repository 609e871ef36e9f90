"""Documents in noisy arrays, found for a question and put before it (RoCR, Qin et al., ICCAD 2024)."""
