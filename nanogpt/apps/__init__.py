"""Programs with a window: the demo page."""
