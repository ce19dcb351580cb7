"""What models are asked and what they answer: seed questions, prompts, replies, items and their checks."""
