"""What a model does on a text: losses, confidence, baselines, intervals, generations."""
