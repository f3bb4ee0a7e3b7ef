"""One click script for each MLproject entry point."""
