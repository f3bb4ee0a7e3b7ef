"""The phases of a study, what they take and fill, and the whole study."""
