"""Figures, findings and the page of a study, made from its tables."""
