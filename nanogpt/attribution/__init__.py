"""What each prediction rests on: methods, maps of prompts, and tests of what the maps are worth."""
