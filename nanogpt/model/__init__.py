"""The GPT, its checkpoints, what it writes, and the device that it runs on."""
