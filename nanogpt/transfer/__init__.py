"""Few-shot adaptation to another domain: fine-tuning, tuned learning rates, measures."""
