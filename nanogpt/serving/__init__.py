"""The model that MLflow serves, and the code that travels with it."""
