"""Texts: where they come from, how they are cleaned, how characters become ids."""
