"""MLflow: runs, registered models, and what a store's errors mean."""
