"""Training from random weights: optimizers, schedule, the step, the loop, many models at once."""
