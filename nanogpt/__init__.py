"""Character-level GPTs on several domains, and what each domain does to a model."""
