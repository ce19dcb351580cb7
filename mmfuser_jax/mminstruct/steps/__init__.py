"""The steps that ask models, and what they have in common."""
